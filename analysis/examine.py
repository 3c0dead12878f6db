"""The questions, and one checkpoint put to them."""

from collections.abc import Callable, Iterator, Mapping

from pydantic import ValidationError

from analysis.finding import Examined, Finding
from analysis.prompts import prompts_fingerprint, tokenise
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
"""By name, in the order of the report. Adding one is a file and its name here."""

_ANSWERS = 3
"""Raise it when a question is answered in another way: what was answered before is then asked again."""
_CURSE = (
    "The checkpoint was chosen by its scores on the split that is read here, so that it looks a little better than it "
    "is (winner's curse)."
)
_ON_THE_TEXT = (perplexity.NAME, shift.NAME, where.NAME, worth.NAME)
"""Questions whose figures are better for such a choice."""
COMPARISON = cross.NAME
"""The question that is put to several checkpoints at once."""


class Settings(Config):
    """What to ask, and on which text.

    Attributes:
        only: names of questions; all of them by default.
        split: held-out text to read. The test split is opened if it is asked for by name.
        n_blocks: of the split, at even distances: neighbours are mostly of one document, and so not independent.
        prompts: texts by category.
        chosen_on: split whose scores chose the checkpoints; None where they were named.
    """

    only: tuple[str, ...] = (*QUESTIONS, COMPARISON)
    split: Split = "validation"
    n_blocks: int = 32
    prompts: dict[str, list[str]]
    chosen_on: Split | None = None

    @property
    def curse(self) -> str:
        """What is said of figures on the text that chose the checkpoint; nothing on other text."""
        if self.chosen_on != self.split:
            return ""
        return _CURSE + (" --split test reads text that chose nothing." if self.split == "validation" else "")

    @property
    def questions(self) -> tuple[str, ...]:
        """Those that are put to each checkpoint."""
        return tuple(name for name in self.only if name != COMPARISON)

    @property
    def text(self) -> str:
        """Hash of what is read, beside the corpus, which is the checkpoint's, and of how it is answered."""
        return content_key(_ANSWERS, self.split, self.n_blocks, prompts_fingerprint(self.prompts), self.curse)


def check_only(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of questions, checked.

    Raises:
        SponError: if one is not known.
    """
    known = (*QUESTIONS, COMPARISON)
    for name in names:
        if name not in known:
            raise SponError(f"an analysis must be one of {', '.join(known)}, but got {name!r} (at --only)")
    return names


def examined(checkpoint: Checkpoint, settings: Settings) -> Examined:
    """What is written down of a checkpoint and of the text that it is examined on."""
    config = checkpoint.meta.config
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
        metrics=checkpoint.meta.metrics,
        commit=checkpoint.meta.commit or "",
    )


def subject_of(checkpoint: Checkpoint, settings: Settings, device: str) -> Subject:
    """Load what a checkpoint is about. Model, text and plan are those of its own config, on whatever device is here.

    Raises:
        SponError: if the model or text cannot be had or is not the checkpoint's, or the split has too few blocks.
    """
    config = checkpoint.meta.config
    bench = Workbench(config.model, config.corpus, device, open_test=settings.split == "test")
    bench.check(config)
    check_fits(checkpoint, bench.model.shape, bench.model.fingerprint)
    longest = config.corpus.block_size
    prompts = tokenise(settings.prompts, load_tokenizer(bench.materials.model), longest)
    there = len(bench.blocks(settings.split).tokens)
    n = min(settings.n_blocks, there)
    step = there // n if n > 0 else 1
    blocks, teacher = some_blocks(bench, settings.split, slice(0, n * step, step))
    return make_subject(bench, checkpoint, blocks, teacher, prompts)


def examine(subject: Subject, questions: tuple[str, ...], curse: str = "") -> Iterator[Finding]:
    """Put questions to a subject, one after the other.

    Args:
        subject: the checkpoint.
        questions: by name.
        curse: what is said beside figures on the text that chose the checkpoint (``Settings.curse``).

    Raises:
        SponError: if a figure is not a number, as with biases that are not.
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
