"""Perplexity and KL of the three models on local text, in blocks and in strided windows."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from analysis.evaluation.resident import MODES, Mode, Resident, quiet
from analysis.evaluation.stored import Scores, TextScores
from search_spaces.errors import SponError
from search_spaces.trial import TrialConfig
from trainables.checkpoint import Checkpoint
from trainables.evaluation import token_scores
from trainables.teacher import teacher_of
from trainables.text.corpus import Blocks


@dataclass(frozen=True)
class Cut:
    """How text is cut into windows. Only the tokens that do not overlap the window before are scored.

    Attributes:
        window: tokens that the model sees at once.
        stride: tokens from one window to the next; the last so many of each window are scored.
        add_bos: put the BOS token in front of every window; it is not scored and does not count towards the window.
    """

    window: int
    stride: int
    add_bos: bool

    @property
    def label(self) -> str:
        """Label such as ``512/256 bos``, without the stride if windows do not overlap."""
        stride = "" if self.stride == self.window else f"/{self.stride}"
        return f"{self.window}{stride}{' bos' if self.add_bos else ''}"


def cuts_of(config: TrialConfig, window: int | None, stride: int | None, add_bos: bool) -> tuple[Cut, ...]:
    """Return the cut into the trial's blocks and, if different, the requested windows.

    Raises:
        SponError: if the stride is longer than the window, or not a whole number of blocks, so that blocks and windows
            cannot score the same tokens.
    """
    size = config.corpus.block_size
    blocks = Cut(size, size, add_bos)
    window = size if window is None else window
    stride = window if stride is None else stride
    if stride > window or stride < size or stride % size:
        raise SponError(
            f"a stride must be a multiple of the {size} tokens of a block and no longer than the window, "
            f"but got window {window}, stride {stride} (at --stride)"
        )
    return tuple(dict.fromkeys((blocks, Cut(window, stride, add_bos))))


def read_texts(places: Sequence[Path]) -> dict[str, str]:
    """Read texts by name, each from a file or from the files of a directory in the order of their names.

    Raises:
        SponError: if one is missing, empty or not UTF-8, or two have the same name.
    """
    texts: dict[str, str] = {}
    for place in places:
        name = place.resolve().name
        if name in texts:
            raise SponError(f"texts must have different names, but got {name!r} twice (at --text)")
        try:
            files = [place]
            if place.is_dir():
                files = sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith("."))
            texts[name] = "\n".join(file.read_text(encoding="utf-8") for file in files)
        except (OSError, UnicodeDecodeError) as error:
            raise SponError(f"a text must be readable as UTF-8, but {error} (at --text {place})") from error
        if not texts[name].strip():
            raise SponError(f"a text must not be empty, but got no words (at --text {place})")
    return texts


def cut_text(resident: Resident, name: str, text: str, cut: Cut, most: int) -> Tensor:
    """Cut a text into evenly spaced windows, (windows, window), because neighbours mostly share a document.

    No special token is added here, and a remainder shorter than a window is dropped.

    Raises:
        SponError: if a window exceeds the model's context, the text has fewer than two windows, or a requested BOS
            token does not exist.
    """
    longest = getattr(resident.model.network.config, "max_position_embeddings", None)
    if longest is not None and cut.window + cut.add_bos > longest:
        raise SponError(f"a window must fit into the model's {longest} tokens, but got {cut.label} (at --window)")
    if cut.add_bos and resident.tokenizer.bos_token_id is None:
        raise SponError("a tokenizer must have a BOS token, but this one has none (at --add-bos)")
    stream = torch.tensor(resident.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    starts = range(0, len(stream) - cut.window + 1, cut.stride)
    if len(starts) < 2:
        got = f"{name} has {len(stream)}"
        raise SponError(f"a text must have two windows, {cut.window + cut.stride} tokens, but {got} (at --text)")
    n = min(most, len(starts))
    step = len(starts) // n
    return stream[torch.tensor(starts[: n * step : step])[:, None] + torch.arange(cut.window)]


def score_text(resident: Resident, name: str, windows: Tensor, cuts: Sequence[Cut]) -> Iterator[TextScores]:
    """Score the three models on the same tokens of a text under each of several cuts.

    Windows, (windows, window), belong to the last and longest cut and are its units. The windows of the other cuts
    divide the new tokens of each.
    """
    for cut in cuts:
        begun = time.monotonic()
        rows = windows if cut == cuts[-1] else windows[:, -cuts[-1].stride :].reshape(-1, cut.window)
        with quiet():
            scores = _score(resident, name, rows, cut, len(windows))
        seconds, tokens = time.monotonic() - begun, scores.tokens * len(windows)
        print(f"{name}, window {cut.label}: {tokens:,} tokens in {seconds:.0f} s", flush=True)
        yield scores


def own_split(checkpoint: Checkpoint) -> TextScores:
    """Return the trial's own scores, on the test split if it was opened, else on validation."""
    split = "test" if "test.spon" in checkpoint.scores else "validation"
    by_mode = {mode: checkpoint.scores[f"{split}.{mode}"] for mode in MODES}
    nll = {mode: _list(s.block_nll / s.block_predictions) for mode, s in by_mode.items()}
    kl = {mode: _list(s.block_kl / s.block_positions) for mode, s in by_mode.items()}
    size = checkpoint.meta.config.corpus.block_size
    return TextScores(
        text=f"its own {split} split",
        fingerprint=checkpoint.meta.config.corpus_fingerprint,
        cut=Cut(size, size, add_bos=False).label,
        tokens=size,
        **_by_name(nll, kl),
    )


def _score(resident: Resident, name: str, rows: Tensor, cut: Cut, units: int) -> TextScores:
    """Score windows (rows, window); each unit has the same number of rows and one mean."""
    if cut.add_bos:
        rows = torch.cat((torch.full((len(rows), 1), resident.tokenizer.bos_token_id), rows), dim=1)
    teacher = teacher_of(resident.model, rows, name)
    blocks = Blocks(rows, torch.zeros_like(rows))

    def mean(values: Tensor) -> Scores:  # (rows, seq): the new tokens of each row that have a prediction
        return _list(values[:, -cut.stride :].double().reshape(units, -1).mean(dim=1))

    nll: dict[Mode, Scores] = {"dense": mean(teacher.nll.cpu())}
    kl: dict[Mode, Scores] = {}
    for mode in MODES[1:]:
        with resident.mode(mode):
            nlls, kls = token_scores(resident.model, blocks, teacher)
        nll[mode], kl[mode] = mean(nlls), mean(kls)
    return TextScores(
        text=name,
        fingerprint=hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:16],
        cut=cut.label,
        tokens=cut.stride * len(rows) // units,
        **_by_name(nll, kl),
    )


def _by_name(nll: Mapping[Mode, Scores], kl: Mapping[Mode, Scores]) -> dict[str, Scores]:
    """Return the score fields of ``TextScores``, which has no KL of the dense model to itself."""
    return {f"{mode}_nll": nll[mode] for mode in MODES} | {f"{mode}_kl": kl[mode] for mode in MODES[1:]}


def _list(values: Tensor) -> Scores:
    return tuple(values.tolist())
