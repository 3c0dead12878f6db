"""What a search found, in JSON and as text: the proposals, the proxy against training, the final comparison."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sweep.search.mask_log import MaskLog
from sweep.search.power import Power, power_lines
from sweep.store.counts import Counts
from trainables.checkpoint import Checkpoint
from trainables.selection import Selection
from trainables.statistics import Array, Interval, spearman

FINDINGS = "findings.txt"


@dataclass(frozen=True)
class ProxyFindings:
    """The proxy against training, over the masks with both scores.

    Attributes:
        n_masks: number of masks.
        rank_correlation: Spearman, with its interval. None below three masks.
        rank_reliability: Spearman of the KL of these trained masks on even against odd validation blocks. It bounds the
            correlation of any proxy. At zero, the masks differ by no more than chance.
        seconds_per_mask, seconds_per_trial: median time to score a mask on the last rung, and to train one.
    """

    n_masks: int
    rank_correlation: Interval | None
    rank_reliability: Interval | None
    seconds_per_mask: float
    seconds_per_trial: float


@dataclass(frozen=True)
class Findings:
    """Everything but the final comparison, which is ``selection.json``.

    Attributes:
        proposals: counts of their outcomes.
        proxy: the proxy against training. None without a proxy.
        power: whether the text can tell masks apart. None without a proxy.
    """

    proposals: Counts
    proxy: ProxyFindings | None
    power: Power | None


def make_findings(
    counts: Counts, log: MaskLog, full: int, trained: Sequence[Checkpoint], power: Power | None
) -> Findings:
    """Sum up a search.

    Args:
        counts: of the proposals.
        log: of the masks on the proxy, empty without one.
        full: blocks of the proxy's last rung.
        trained: trials of the first seed.
        power: of the text; None without a proxy.
    """
    return Findings(counts, _proxy(log, full, trained), power)


def _proxy(log: MaskLog, full: int, trained: Sequence[Checkpoint]) -> ProxyFindings | None:
    scored = {record.trial.identity: record for record in log.on(full)}
    both = [c for c in trained if c.meta.config.identity in scored and c.biases]
    if not both:
        return None
    proxy = np.array([scored[c.meta.config.identity].kl_nats for c in both])
    real = np.array([c.meta.metrics["val_kl_nats"] for c in both])
    seconds = [sum(step["seconds"] for step in c.meta.history) for c in both]
    return ProxyFindings(
        n_masks=len(both),
        rank_correlation=_spearman(proxy, real),
        rank_reliability=_spearman(_kl_of_half(both, 0), _kl_of_half(both, 1)),
        seconds_per_mask=float(np.median([record.seconds for record in scored.values()])),
        seconds_per_trial=float(np.median(seconds)),
    )


def _kl_of_half(trained: Sequence[Checkpoint], half: int) -> Array:
    """Validation KL of the masks over every second block, in nats."""
    scores = [c.scores["validation.spon"] for c in trained]
    return np.array([(s.block_kl[half::2].sum() / s.block_positions[half::2].sum()).item() for s in scores])


def _spearman(x: Array, y: Array) -> Interval | None:
    return spearman(x.tolist(), y.tolist()) if len(x) > 2 and len(set(x)) > 1 and len(set(y)) > 1 else None


def write_findings(findings: Findings, selection: Selection | None, directory: Path) -> str:
    """Write ``findings.json`` and ``findings.txt``, and return the text."""
    lines = [*_lines(findings), *(_compared(selection) if selection else [])]
    return _write(findings, lines, directory)


def write_stop(power: Power, least: float, directory: Path) -> None:
    """Write the findings of a search that ended before its first proposal, because its text has too little power.

    Args:
        power: of its text.
        least: required reliability.
        directory: the sweep's folder.
    """
    blocks = power.blocks_for(least)
    enough = "no amount of text would suffice" if blocks is None else f"about {blocks:,} blocks would suffice"
    stop = [
        f"the search stops here: a reliability of {least:g} is required; {enough} "
        "(corpus.blocks.validation, search.proxy.rungs)",
        "to search anyway, set search.proxy.least_reliability to 0; either way, use a new name",
    ]
    _write(Findings(Counts(), None, power), power_lines(power) + stop, directory)


def _write(findings: Findings, lines: list[str], directory: Path) -> str:
    (directory / "findings.json").write_text(json.dumps(asdict(findings), indent=1))
    text = "\n".join(lines)
    (directory / FINDINGS).write_text(text + "\n")
    return text


def _lines(findings: Findings) -> list[str]:
    counts, lines = findings.proposals, power_lines(findings.power) if findings.power else []
    lines.append(
        f"proposals: {counts.new} masks evaluated; {counts.repeated} more were known and cost nothing, "
        f"{counts.strayed} were drawn at random"
    )
    if proxy := findings.proxy:
        times = proxy.seconds_per_trial / proxy.seconds_per_mask
        lines += [
            f"proxy: a mask takes {proxy.seconds_per_mask:.1f} s, training it {times:.0f} times as long; "
            f"Spearman of the two over {proxy.n_masks} masks {_rho(proxy.rank_correlation)}",
            f"Spearman of the trained KL, even against odd blocks: {_rho(proxy.rank_reliability)}",
        ]
    return lines


def _rho(interval: Interval | None) -> str:
    return f"{interval:+.2f}" if interval else "not defined"


def _compared(selection: Selection) -> list[str]:
    """The final comparison as a table, with its verdict."""
    lines = [
        "",
        f"{selection.plan}, test split, means over seeds",
        f"TEAL alone: KL {selection.teal_test_kl_nats:.4f} nats, PPL {selection.teal_test_ppl:.2f}; "
        f"dense PPL {selection.dense_test_ppl:.2f}",
        f"{'mask':>20} {'role':>8} {'params':>8} {'KL':>8} {'KL recovered':>24} {'PPL':>7}",
    ]
    lines += [
        f"{m.name:>20} {m.role:>8} {m.n_spon_params:>8,} {m.test_kl_nats:>8.5f} {_share(m.test_kl_recovered)} "
        f"{m.test_ppl:>7.3f}"
        for m in sorted(selection.masks, key=lambda m: m.test_kl_nats)
    ]
    lines += [
        "",
        "KL of the chosen mask minus that of the other, in nats per token, and the same by seed",
        f"intervals over {selection.bootstrap_over} and seeds, {selection.confidence:.2%} each: 95% for all together",
    ]
    lines += [
        f"{d.chosen:>20} - {d.against:<16} {d.kl_nats:+.5f}  {' '.join(f'{value:+.4f}' for value in d.kl_nats_by_seed)}"
        for d in selection.differences
    ]
    verdicts = [_verdict(selection, chosen, rival) for chosen, rival in selection.best_rival.items()]
    return [*lines, *(verdicts or ["no verdict: every chosen mask has a seed that failed"])]


def _share(interval: Interval | None) -> str:
    text = f"{interval:+.1%}" if interval else "no clear damage"
    return f"{text:>24}"


def _verdict(selection: Selection, chosen: str, rival: str | None) -> str:
    """One line on whether the search won."""
    if rival is None:
        return f"{chosen}: no allocation of the space is as small"
    kl = next(d.kl_nats for d in selection.differences if (d.chosen, d.against) == (chosen, rival))
    verdict = "is better than" if kl.high < 0 else "is worse than" if kl.low > 0 else "is not clearly better than"
    return f"{chosen} {verdict} {rival}, the best named of its size: KL {kl:+.5f}"
