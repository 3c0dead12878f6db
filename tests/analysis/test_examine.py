"""Every question on every kind of checkpoint: an answer that can be stored, and a model that is dense again."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from analysis.examine import QUESTIONS, Settings, examine, examined, subject_of
from analysis.finding import Effect, Finding
from analysis.subject import Subject
from search_spaces.errors import SponError
from tests.analysis.conftest import KINDS
from tests.conftest import trials_of
from trainables.checkpoint import Checkpoint
from trainables.trial import run_trial
from trainables.workbench import Workbench

Answers = Callable[[str, str], Finding]


@pytest.mark.parametrize("kind", [*KINDS, "zero", "one", "outside"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_survives_its_file_and_leaves_the_model_dense(question, kind, finding_of: Answers, subject_by):
    finding = finding_of(question, kind)
    assert finding.analysis == question
    assert finding.rows or (question, kind) == ("norms", "outside")
    assert finding.verdict
    assert Finding.model_validate_json(finding.model_dump_json()) == finding
    subject_by(kind).model.check_dense()


def test_zero_biases_are_not_said_to_do_anything(finding_of: Answers):
    verdicts = {question: finding_of(question, "zero").verdict for question in QUESTIONS}
    assert verdicts["logits"] == "0 of 5 larger than random vectors; 0 of 5 more peaked than random vectors"
    assert verdicts["moments"].startswith("tails and signs like those of Gaussian")
    assert "inside" not in verdicts["pca"]
    assert verdicts["norms"].startswith("nothing to rank")
    assert "of 5 sites 0 clearly lower the KL and 0 clearly raise it" in verdicts["worth"]
    assert "not clearly nearer or further, not clearly different from random vectors" in verdicts["shift"]
    assert "what the biases change: no clear difference" in verdicts["categories"]


@pytest.mark.parametrize("question", ["pca", "moments", "norms", "logits"])
def test_where_a_start_was_built_in_the_verdict_is_on_what_training_added(question, subject_by):
    subject = subject_by("input_vector")
    still = replace(subject, biases=subject.start)  # nothing was added to a start that is made of its sites' outputs
    finding = QUESTIONS[question](still)
    zero = QUESTIONS[question](replace(still, biases=dict.fromkeys(still.biases, torch.zeros(32)), start={}))
    assert finding.verdict.startswith("of what training added to its start: ")
    assert finding.verdict.removeprefix("of what training added to its start: ") == zero.verdict.replace(
        "all biases are", "all are"
    )
    assert [row | {"kind": 0} for row in finding.rows] == [row | {"kind": 0} for row in zero.rows]
    assert "what training added" in finding.null
    assert question == "norms" or any(effect.label.startswith("whole bias") for effect in finding.effects)


def test_what_was_chosen_on_the_text_is_said_to_look_better(subject: Subject, settings: Settings):
    chosen = settings.model_copy(update={"chosen_on": "validation"})
    assert chosen.text != settings.text
    assert "--split test" in chosen.curse
    assert chosen.model_copy(update={"split": "test"}).curse == settings.curse == ""
    found = {finding.analysis: finding.null for finding in examine(subject, ("perplexity", "moments"), chosen.curse)}
    assert "winner's curse" in found["perplexity"]
    assert "winner's curse" not in found["moments"]


def test_a_figure_that_is_no_number_is_one_line(subject: Subject, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(QUESTIONS, "pca", lambda _: Effect(label="share", value=torch.nan))  # type: ignore[arg-type]
    with pytest.raises(SponError, match=r"an answer must be of finite numbers, but value is nan \(at pca\)"):
        list(examine(subject, ("pca",)))


def test_other_text_or_prompts_are_known_as_such(settings: Settings):
    others = ({"n_blocks": 8}, {"split": "test"}, {"prompts": {"math": ["w1 w2", "w3 w4"]}})
    assert len({settings.text, *(settings.model_copy(update=other).text for other in others)}) == 4
    turned = dict(reversed(settings.prompts.items()))
    assert settings.model_copy(update={"prompts": turned}).text == settings.text


def test_what_is_written_down_names_the_trial_and_the_text(checkpoint_of, settings: Settings):
    written = examined(checkpoint_of("topk"), settings)
    assert (written.allocation, written.plan, written.seed) == ("UNIF-ALL", "down_proj@0.60 topk", 42)
    assert (written.split, written.n_blocks, written.text) == ("validation", 32, settings.text)


@pytest.mark.parametrize(
    ("split", "n_blocks", "rows"),
    [("validation", 10, slice(0, 40, 4)), ("validation", 10**6, slice(48)), ("test", 12, slice(12))],
)
def test_blocks_of_a_split_are_taken_at_even_distances(split, n_blocks, rows, checkpoint_of, settings: Settings):
    settings = settings.model_copy(update={"split": split, "n_blocks": n_blocks})
    subject = subject_of(checkpoint_of("topk"), settings, "cpu")
    assert subject.blocks.tokens.equal(subject.bench.blocks(split).tokens[rows])
    assert subject.teacher.nll.equal(subject.bench.teacher(split).nll[rows])


@pytest.mark.parametrize(("n_blocks", "message"), [(1, "two blocks of text"), (0, "n_blocks must be in")])
def test_too_little_text_is_refused(n_blocks, message, checkpoint_of, settings: Settings):
    with pytest.raises(SponError, match=message):
        subject_of(checkpoint_of("topk"), settings.model_copy(update={"n_blocks": n_blocks}), "cpu")


def test_a_checkpoint_without_biases_is_refused(raw, settings: Settings):
    trial = trials_of(raw | {"allocations": ["BASELINE-TEAL"]})[0]
    baseline: Checkpoint = run_trial(Workbench(trial.model, trial.corpus, "cpu"), trial)
    with pytest.raises(SponError, match="has no biases"):
        subject_of(baseline, settings, "cpu")


def test_a_checkpoint_of_a_model_that_changed_is_refused(checkpoint_of, settings: Settings):
    checkpoint = checkpoint_of("topk")
    config = checkpoint.meta.config.model_copy(update={"model_fingerprint": "another"})
    changed = Checkpoint(checkpoint.meta.model_copy(update={"config": config}), checkpoint.biases, checkpoint.scores)
    with pytest.raises(SponError, match="it was made for another"):
        subject_of(changed, settings, "cpu")
