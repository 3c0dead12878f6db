"""Where does the repair happen: at early or late tokens, rare or common ones, confident or uncertain predictions?"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.finding import Effect, Finding, Row, cells
from analysis.resampling import Units, holm, p_of_zero, ratio, ratios_apart
from analysis.subject import MODES, Mode, Subject
from trainables.statistics import Array, Interval

NAME = "where"
BINS = 5
_LEVEL = 0.05
_TRENDS = {1: "recovers more at its high end", -1: "recovers less at its high end", 0: "no clear trend"}


class Bin(NamedTuple):
    """Tokens of one kind.

    Attributes:
        label: range of the property.
        share: of all tokens.
        teal_kl_nats: mean KL under TEAL alone.
        recovered, random_recovered: share of it that the biases and random vectors recover.
    """

    label: str
    share: float
    teal_kl_nats: float
    recovered: Interval
    random_recovered: Interval


def split_by(
    values: NDArray[np.float64], kl: Mapping[Mode, Array], units: Units | None = None
) -> tuple[list[Bin], Interval]:
    """Return recovery by a property of tokens in bins of about equal size, and in the last bin minus the first.

    Args:
        values: (blocks, seq), the property. Bins are fewer than ``BINS`` if values tie.
        kl: (blocks, seq) nats under ``teal``, ``spon`` and ``random``.
        units: of the blocks, for intervals; by default each block is a unit.
    """
    lower_ends = np.unique(np.quantile(values, np.arange(BINS) / BINS))
    index = np.searchsorted(lower_ends, values, side="right") - 1
    found, sums = [], []
    for place in np.unique(index):
        chosen = index == place
        label = f"{values[chosen].min():.4g} to {values[chosen].max():.4g}"
        sums.append({mode: np.where(chosen, each, 0.0).sum(axis=1) for mode, each in kl.items()})
        found.append(_bin(label, sums[-1], float(chosen.sum()), chosen.size, units))
    first, last = ((part["spon"], part["teal"]) for part in (sums[0], sums[-1]))
    return found, ratios_apart(first, last, units)


def _bin(label: str, kl: Mapping[Mode, Array], tokens: float, of: float, units: Units | None = None) -> Bin:
    """Make a bin from the KL of its tokens, summed over each block or prompt, (rows,), and its count out of all."""
    teal = kl["teal"]
    spon, random = (ratio(teal - kl[mode], teal, units=units) for mode in ("spon", "random"))
    return Bin(label, float(tokens / of), float(teal.sum() / tokens), spon, random)


def find(subject: Subject) -> Finding:
    """Measure recovery by property of the subject's text, and by category of its prompts."""
    dense = subject.config.plan.dense_prefix(subject.blocks.tokens.shape[1])
    kl = {mode: subject.tokens[mode][1][:, dense:].double().numpy() for mode in MODES[1:]}
    rows: list[Row] = []
    contrasts: dict[str, Effect] = {}
    for name, values in _properties(subject):
        bins, contrast = split_by(values[:, dense:], kl, subject.units)
        label = f"{name}: recovery in the last bin minus the first"
        contrasts[name] = Effect.of(label, contrast, "fraction", (0.0, 0.0))
        rows += [_row(name, bin_) for bin_ in bins]
    by_category = _by_category(subject)
    rows += [_row("category", bin_) for bin_ in by_category]
    recovered = [Effect.of(f"prompts, {b.label}: KL recovered", b.recovered, "fraction") for b in by_category]
    trends = [f"{name}: {_TRENDS[contrast.sign]}" for name, contrast in contrasts.items()]
    return Finding(
        analysis=NAME,
        title="Where a bias helps",
        question="Do the biases recover the same share of TEAL's KL for all tokens?",
        null="The same share in the first and the last bin: their difference is zero. Random vectors of the same norms "
        "are in the table. Tokens that the plan leaves dense have nothing to recover and are left out. Intervals are "
        "jackknives over documents, and over prompts, of each figure by itself. The count of categories that are "
        "helped is adjusted for all of them together (Holm).",
        effects=(*contrasts.values(), *recovered),
        verdict="; ".join([*trends, _helped(subject, by_category)]),
        rows=tuple(rows),
    )


def _properties(subject: Subject) -> Iterator[tuple[str, NDArray[np.float64]]]:
    tokens = subject.blocks.tokens
    yield "position in the block", np.broadcast_to(np.arange(tokens.shape[1], dtype=np.float64), tokens.shape)
    counts = torch.bincount(
        subject.bench.blocks("calibration").tokens.flatten(), minlength=subject.model.shape.vocab_size
    )
    yield "frequency of the token that is read, in the calibration text", counts[tokens].double().numpy()
    yield "entropy of the dense model (nats)", subject.teacher.entropy.cpu().double().numpy()


def _by_category(subject: Subject) -> list[Bin]:
    """Compute recovery over the prompts of each category, with prompts as units."""
    kl = _prompt_kl(subject)
    lengths = np.array([len(prompt.tokens) for prompt in subject.prompts], dtype=np.float64)
    of = np.array([prompt.category for prompt in subject.prompts])
    found = []
    for category in dict.fromkeys(of.tolist()):
        at = of == category
        found.append(_bin(category, {mode: each[at] for mode, each in kl.items()}, lengths[at].sum(), lengths.sum()))
    return found


@torch.inference_mode()
def _prompt_kl(subject: Subject) -> dict[Mode, Array]:
    """Compute KL(dense || mode) of each prompt, summed over its tokens, nats, (prompts,), for every sparse mode."""
    head = subject.model.head.float()
    model = subject.model
    hidden = {mode: subject.by_prompt(mode, lambda t: model.hidden(t.to(model.device)).float()) for mode in MODES}
    kl: dict[Mode, Array] = {mode: np.empty(len(subject.prompts)) for mode in MODES[1:]}
    for place in range(len(subject.prompts)):
        log_p, *log_qs = ((hidden[mode][place] @ head.T).double().log_softmax(dim=-1) for mode in MODES)
        for mode, log_q in zip(MODES[1:], log_qs, strict=True):
            kl[mode][place] = float((log_p.exp() * (log_p - log_q)).sum())
    return kl


def _row(name: str, bin_: Bin) -> Row:
    row: Row = {"by": name, "bin": bin_.label, "share": bin_.share, "teal_kl_nats": bin_.teal_kl_nats}
    return row | cells("recovered", bin_.recovered) | cells("random_recovered", bin_.random_recovered)


def _helped(subject: Subject, by_category: list[Bin]) -> str:
    prompts = [sum(prompt.category == bin_.label for prompt in subject.prompts) for bin_ in by_category]
    p_values = holm([p_of_zero(bin_.recovered, n) for bin_, n in zip(by_category, prompts, strict=True)])
    helped = sum(p < _LEVEL and b.recovered.value > 0 for p, b in zip(p_values, by_category, strict=True))
    return f"clearly helps on {helped} of {len(by_category)} categories of prompts"
