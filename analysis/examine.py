"""The registry of questions, and the examination of one checkpoint."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping

from pydantic import ValidationError

from analysis.finding import Examined, Finding
from analysis.prompts import tokenise
from analysis.questions import categories, cross, levels, logits, moments, norms, pca, perplexity, shift, where, worth
from analysis.subject import Subject, make_subject
from search_spaces.base import Config
from search_spaces.config import Split
from search_spaces.errors import SponError
from trainables.cache import content_key
from trainables.checkpoint import Checkpoint, check_fits
from trainables.model.resident import load_tokenizer
from trainables.proxy import some_blocks
from trainables.workbench import Workbench

QUESTIONS: Mapping[str, Callable[[Subject], Finding]] = {
    question.NAME: question.find
    for question in (perplexity, shift, where, categories, pca, moments, norms, logits, worth, levels)
}
"""By name, in the order of the report. To add one, write its file and name it here."""

_ANSWERS = 4
"""Version of the answers. Raise it when a question is answered differently, so that stored answers are recomputed."""
_CURSE = (
    "The checkpoint was chosen by its scores on the split that is read here, so that it looks a little better than it "
    "is (winner's curse)."
)
_ON_THE_TEXT = (perplexity.NAME, shift.NAME, where.NAME, worth.NAME)
"""Questions whose figures such a choice makes look better."""
COMPARISON = cross.NAME
"""The question about several checkpoints at once."""


class Settings(Config):
    """What to ask, and on which text.

    Attributes:
        only: names of questions; all of them by default.
        split: held-out text to read. The test split opens only if requested by name.
        n_blocks: blocks of the split, evenly spaced: neighbours mostly share a document and are not independent.
        prompts: texts by category.
        chosen_on: split whose scores chose the checkpoints; None if the user named them.
    """

    only: tuple[str, ...] = (*QUESTIONS, COMPARISON)
    split: Split = "validation"
    n_blocks: int = 32
    prompts: dict[str, list[str]]
    chosen_on: Split | None = None

    @property
    def curse(self) -> str:
        """Caveat for figures on the text that chose the checkpoint; empty for other text."""
        if self.chosen_on != self.split:
            return ""
        return _CURSE + (" --split test reads text that chose nothing." if self.split == "validation" else "")

    @property
    def questions(self) -> tuple[str, ...]:
        """Questions about each single checkpoint."""
        return tuple(name for name in self.only if name != COMPARISON)

    @property
    def text(self) -> str:
        """Hash of the text settings and the answers' version. The checkpoint itself names the corpus."""
        prompts = hashlib.sha256(repr(sorted(self.prompts.items())).encode()).hexdigest()[:16]
        return content_key(_ANSWERS, self.split, self.n_blocks, prompts, self.curse)


def check_only(names: Iterable[str]) -> None:
    """Check names of questions.

    Raises:
        SponError: if a name is unknown.
    """
    known = (*QUESTIONS, COMPARISON)
    for name in names:
        if name not in known:
            raise SponError(f"an analysis must be one of {', '.join(known)}, but got {name!r} (at --only)")


def examined(checkpoint: Checkpoint, settings: Settings) -> Examined:
    """Return the stored description of a checkpoint and of the text that it is examined on.

    A test report may follow later and changes no answer, so its metrics are left out.
    """
    config, metrics = checkpoint.meta.config, checkpoint.meta.metrics
    return Examined(
        name=config.name,
        identity=config.identity,
        model=config.model.source,
        corpus=config.corpus.source,
        allocation=config.allocation,
        plan=config.plan_label,
        seed=config.training.seed,
        split=settings.split,
        n_blocks=settings.n_blocks,
        text=settings.text,
        metrics={name: value for name, value in metrics.items() if not name.startswith("test_")},
        commit=checkpoint.meta.commit or "",
    )


def subject_of(checkpoint: Checkpoint, settings: Settings, device: str) -> Subject:
    """Load a checkpoint's model, text and plan, as its own config names them, on the given device.

    Raises:
        SponError: if the model or text is unavailable or not the checkpoint's, or the split has too few blocks.
    """
    config = checkpoint.meta.config
    bench = Workbench(config.model, config.corpus, device, open_test=settings.split == "test")
    bench.check(config)
    check_fits(checkpoint, bench.model.shape, bench.model.fingerprint)
    prompts = tokenise(settings.prompts, load_tokenizer(bench.materials.model), config.corpus.block_size)
    there = len(bench.blocks(settings.split).tokens)
    n = min(settings.n_blocks, there)
    step = there // n if n > 0 else 1
    blocks, teacher = some_blocks(bench, settings.split, slice(0, n * step, step))
    return make_subject(bench, checkpoint, blocks, teacher, prompts)


def examine(subject: Subject, questions: Iterable[str], curse: str = "") -> Iterator[Finding]:
    """Answer questions about a subject, one after the other, with the caveat ``Settings.curse`` where it matters.

    Raises:
        SponError: if a figure is not finite, for example because a bias is not.
    """
    for name in questions:
        try:
            finding = QUESTIONS[name](subject)
        except ValidationError as error:
            fault = error.errors()[0]
            what = f"{fault['loc'][-1]} is {fault['input']}" if fault["loc"] else fault["msg"]
            raise SponError(f"an answer must be of finite numbers, but {what} (at {name})") from error
        null = f"{finding.null} {curse}" if curse and name in _ON_THE_TEXT else finding.null
        yield finding.model_copy(update={"null": null})
