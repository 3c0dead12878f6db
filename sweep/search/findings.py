"""What a search found: the proposals, the proxy against training, the final comparison; in JSON and in a few lines."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sweep.search.mask_log import MaskLog
from sweep.search.power import Power, power_lines
from sweep.search.task import Counts
from trainables.checkpoint import Checkpoint
from trainables.selection import PlanSelection, Selection
from trainables.statistics import Array, Interval, spearman

FINDINGS = "findings.txt"


@dataclass(frozen=True)
class ProxyFindings:
    """The proxy against training, over the masks that had both.

    Attributes:
        n_masks: how many.
        rank_correlation: Spearman, with its interval; none below three masks.
        rank_correlation_equal_size: over those of the most frequent number of parameters.
        n_equal_size: how many these are.
        rank_reliability: Spearman of these trained masks with themselves, even against odd validation blocks. It bounds
            what any proxy can reach, and at zero the masks do not differ more than chance has it.
        seconds_per_mask, seconds_per_trial: medians of scoring a mask on the last rung, and of training one.
    """

    n_masks: int
    rank_correlation: Interval | None
    n_equal_size: int
    rank_correlation_equal_size: Interval | None
    rank_reliability: Interval | None
    seconds_per_mask: float
    seconds_per_trial: float


@dataclass(frozen=True)
class Findings:
    """Everything but the final comparison, which is ``selection.json``.

    Attributes:
        proposals: what became of them.
        proxy: it against training; none without one.
        power: whether the text can tell masks apart; none without a proxy.
    """

    proposals: Counts
    proxy: ProxyFindings | None
    power: Power | None


def make_findings(
    counts: Counts, log: MaskLog | None, full: int, trained: Sequence[Checkpoint], power: Power | None
) -> Findings:
    """Sum up a search.

    Args:
        counts: of the proposals.
        log: of the masks on the proxy, if there is one.
        full: blocks of the proxy's last rung.
        trained: trials of the first seed.
        power: of the text.
    """
    return Findings(counts, _proxy(log, full, trained) if log else None, power)


def _proxy(log: MaskLog, full: int, trained: Sequence[Checkpoint]) -> ProxyFindings | None:
    scored = {record.trial.identity: record for record in log.on(full)}
    both = [c for c in trained if c.meta.config.identity in scored and c.biases]
    if not both:
        return None
    proxy = np.array([scored[c.meta.config.identity].kl_nats for c in both])
    real = np.array([c.meta.metrics["val_kl_nats"] for c in both])
    sizes = [c.meta.config.n_spon_params for c in both]
    equal = np.array(sizes) == max(set(sizes), key=sizes.count)
    same = [c for c, is_equal in zip(both, equal, strict=True) if is_equal]
    seconds = [sum(step["seconds"] for step in c.meta.history) for c in both]
    return ProxyFindings(
        n_masks=len(both),
        rank_correlation=_spearman(proxy, real),
        n_equal_size=int(equal.sum()),
        rank_correlation_equal_size=_spearman(proxy[equal], real[equal]),
        rank_reliability=_spearman(_kl_of_half(same, 0), _kl_of_half(same, 1)),
        seconds_per_mask=float(np.median([record.seconds for record in scored.values()])),
        seconds_per_trial=float(np.median(seconds)),
    )


def _kl_of_half(trained: Sequence[Checkpoint], half: int) -> Array:
    """Validation KL of some masks over every second block, in nats."""
    scores = [c.scores["validation.spon"] for c in trained]
    return np.array([(s.block_kl[half::2].sum() / s.block_positions[half::2].sum()).item() for s in scores])


def _spearman(x: Array, y: Array) -> Interval | None:
    return spearman(x.tolist(), y.tolist()) if len(x) > 2 and len(set(x)) > 1 and len(set(y)) > 1 else None


def write_findings(findings: Findings, selection: Selection, directory: Path) -> str:
    """Write ``findings.json`` and the lines for people, and return these."""
    lines = [*_lines(findings), *(line for plan in selection.plans for line in _plan_lines(plan))]
    return _write(findings, lines, directory)


def write_stop(power: Power, least: float, directory: Path) -> str:
    """The same of a search that ended before its first proposal.

    Args:
        power: of its text, which is too low.
        least: reliability that is asked for.
        directory: the sweep's folder.
    """
    blocks = power.blocks_for(least)
    enough = "no amount of text would do" if blocks is None else f"about {blocks:,} blocks would do"
    stop = [
        f"the search stops here: a reliability of {least:g} is asked for; {enough} "
        "(corpus.blocks.validation, search.proxy.rungs)",
        "to search all the same, set search.proxy.least_reliability to 0; either way under a new name",
    ]
    return _write(Findings(Counts(), None, power), power_lines(power) + stop, directory)


def _write(findings: Findings, lines: list[str], directory: Path) -> str:
    (directory / "findings.json").write_text(json.dumps(asdict(findings), indent=1))
    text = "\n".join(lines)
    (directory / FINDINGS).write_text(text + "\n")
    return text


def _lines(findings: Findings) -> list[str]:
    counts = findings.proposals
    lines = power_lines(findings.power) if findings.power else []
    lines += [
        f"proposals: {counts.new} masks evaluated; {counts.repeated} more were known and cost nothing, "
        f"{counts.strayed} were drawn at random to move the sampler on"
    ]
    if proxy := findings.proxy:
        share = proxy.seconds_per_mask / proxy.seconds_per_trial if proxy.seconds_per_trial else float("nan")
        lines += [
            f"proxy: a mask takes {proxy.seconds_per_mask:.2f} s, 1/{1 / share:.0f} of training one; "
            f"Spearman against training {_rho(proxy.rank_correlation)} over {proxy.n_masks} masks, "
            f"{_rho(proxy.rank_correlation_equal_size)} over the {proxy.n_equal_size} of equal size",
            f"whether these {proxy.n_equal_size} differ at all: Spearman of their trained KL, even against odd blocks, "
            f"{_rho(proxy.rank_reliability)}; at zero, no search can tell them apart on this text",
        ]
    return lines


def _rho(interval: Interval | None) -> str:
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]" if interval else "not defined"


def _plan_lines(plan: PlanSelection) -> list[str]:
    """The final comparison of a plan as a table, and who won."""
    lines = [
        "",
        f"{plan.plan}, test split, means over seeds: TEAL alone KL {plan.teal_test_kl_nats:.4f} nats, "
        f"PPL {plan.teal_test_ppl:.2f}; dense PPL {plan.dense_test_ppl:.2f}",
        f"{'mask':>24} {'role':>8} {'params':>8} {'val KL':>8} {'test KL':>8} {'KL recovered':>24} {'PPL':>7} "
        f"{'PPL recovered':>24}",
    ]
    lines += [
        f"{m.name:>24} {m.role:>8} {m.n_spon_params:>8,} {m.val_kl_nats:>8.5f} {m.test_kl_nats:>8.5f} "
        f"{_share(m.test_kl_recovered)} {m.test_ppl:>7.3f} {_share(m.test_ppl_recovered)}"
        for m in sorted(plan.masks, key=lambda m: m.test_kl_nats)
    ]
    lines.append(
        f"differences, chosen minus other, nats a token; intervals over {plan.bootstrap_over} and seeds hold all "
        f"together with 95% ({plan.confidence:.2%} each)"
    )
    lines += [
        f"{d.chosen:>24} - {d.against:<20} KL {_signed(d.kl_nats)}  NLL {_signed(d.nll_nats)}  "
        f"KL by seed {' '.join(f'{value:+.5f}' for value in d.kl_nats_by_seed)}"
        for d in plan.differences
    ]
    verdicts = [_verdict(plan, chosen, rival) for chosen, rival in plan.best_rival.items()]
    return [*lines, *(verdicts or ["no verdict: every chosen mask has a seed that failed"])]


def _share(interval: Interval | None) -> str:
    text = f"{interval.value:+.1%} [{interval.low:+.1%}, {interval.high:+.1%}]" if interval else "no sure damage"
    return f"{text:>24}"


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.5f} [{interval.low:+.5f}, {interval.high:+.5f}]"


def _verdict(plan: PlanSelection, chosen: str, rival: str | None) -> str:
    """One line that says whether the search won."""
    if rival is None:
        return f"{chosen}: no allocation of the space is as small"
    kl = next(d.kl_nats for d in plan.differences if (d.chosen, d.against) == (chosen, rival))
    verdict = "is better than" if kl.high < 0 else "is worse than" if kl.low > 0 else "is not surely better than"
    return f"{chosen} {verdict} {rival}, the best of the space's own at equal or smaller size: KL {_signed(kl)}"
