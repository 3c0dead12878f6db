"""Compares two sweeps with different levels, training or code: the same allocations, paired over the same text."""

from typing import NamedTuple

from search_spaces.errors import SponError
from sweep.store.folder import SweepFolder
from trainables.checkpoint import Checkpoint, read_checkpoint
from trainables.scores import Scores
from trainables.statistics import Interval, paired_bootstrap

_Key = tuple[str, float, str, int]
"""Matches trials of two sweeps: allocation, sparsity, level method (if it tells trials of a sweep apart), seed."""


class Pair(NamedTuple):
    """A trial in two sweeps, on the test split.

    Attributes:
        levels: method that chose the levels; empty if each sweep has one alone.
        difference: KL of the second minus KL of the first, in nats, with a 95% interval paired over documents.
    """

    allocation: str
    sparsity: float
    levels: str
    seed: int
    kl_nats: tuple[float, float]
    ppl: tuple[float, float]
    difference: Interval


def compare(first: SweepFolder, second: SweepFolder) -> list[Pair]:
    """The trials that two sweeps share.

    Raises:
        SponError: if they share none, or scored them on different text.
    """
    sweeps = [_scored(first), _scored(second)]
    several = any(len({checkpoint.meta.config.level_method for checkpoint in scored}) > 1 for scored in sweeps)
    ours, theirs = ({_key(checkpoint, several): checkpoint for checkpoint in scored} for scored in sweeps)
    shared = [key for key in ours if key in theirs]
    if not shared:
        rule = "two sweeps must share a scored trial, of one allocation, sparsity, method of levels and seed"
        raise SponError(f"{rule}, but {first.name} and {second.name} do not")
    return [_pair(key, ours[key], theirs[key]) for key in shared]


def as_text(pairs: list[Pair], first: str, second: str) -> str:
    """One line per trial, and one that explains them."""
    width = max(len(pair.allocation) for pair in pairs)
    lines = []
    for pair in pairs:
        (kl, kl_then), (ppl, ppl_then) = pair.kl_nats, pair.ppl
        levels = f"  {pair.levels}" if pair.levels else ""
        who = f"{pair.allocation:{width}}  {pair.sparsity:4.0%}{levels}  seed {pair.seed}"
        changed = f"KL {kl:.4f} -> {kl_then:.4f}, {pair.difference:+.4f}"
        lines.append(f"{who}  {changed}  PPL {ppl:.2f} -> {ppl_then:.2f}")
    key = f"{first} -> {second}, test split; KL in nats per token; the difference with its paired 95% interval"
    return "\n".join([*lines, key])


def _scored(folder: SweepFolder) -> list[Checkpoint]:
    read = [read_checkpoint(trial.checkpoint_path) for trial in folder.trials if trial.state == "finished"]
    return [checkpoint for checkpoint in read if "test.spon" in checkpoint.scores]


def _key(checkpoint: Checkpoint, several: bool) -> _Key:
    """What two sweeps can share of a trial, with the level method where a sweep has several."""
    config = checkpoint.meta.config
    levels = (config.level_method or "given") if several else ""
    return config.allocation, config.sparsity, levels, config.training.seed


def _pair(key: _Key, ours: Checkpoint, theirs: Checkpoint) -> Pair:
    texts = [checkpoint.meta.config.corpus_fingerprint for checkpoint in (ours, theirs)]
    if texts[0] != texts[1]:
        raise SponError(f"two sweeps must be scored on the same text, but got {texts[0]} and {texts[1]}")
    scores: dict[str, Scores] = {"ours": ours.scores["test.spon"], "theirs": theirs.scores["test.spon"]}
    difference = paired_bootstrap(scores, {"kl": lambda means: means["theirs"].kl - means["ours"].kl})["kl"]
    kl, ppl = ((getattr(scores["ours"], name), getattr(scores["theirs"], name)) for name in ("kl_nats", "ppl"))
    return Pair(*key, kl, ppl, difference)
