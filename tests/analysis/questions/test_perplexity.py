"""The damage to the NLL is the KL plus a misfit, which text drawn from the dense model does not have."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.questions import perplexity
from analysis.questions.perplexity import damage_of
from analysis.subject import Subject
from trainables.teacher import teacher_of
from trainables.text.corpus import Blocks


def test_damage_by_hand():
    found = damage_of(np.array([[2.0, 4.0]]), np.array([[1.0, 2.0]]), np.array([[0.5, 0.7, 99.0]]))
    assert {part: values[0] for part, values in found.items()} == pytest.approx({"nll": 1.5, "kl": 0.6, "misfit": 0.9})


def test_the_damage_is_that_of_the_scores(subject: Subject, finding_of):
    effects = {effect.label: effect.value for effect in finding_of("perplexity", "topk").effects}
    nll = {mode: subject.tokens[mode][0].double().mean().item() for mode in ("dense", "teal", "spon")}
    assert effects["TEAL's damage to the NLL"] == pytest.approx(nll["teal"] - nll["dense"], abs=1e-9)
    share = (nll["teal"] - nll["spon"]) / (nll["teal"] - nll["dense"])
    kl = {mode: subject.tokens[mode][1][:, :-1].double().mean().item() for mode in ("teal", "spon")}
    assert effects["share of the NLL's damage recovered"] == pytest.approx(share, abs=1e-6)
    assert effects["share of the KL recovered"] == pytest.approx(1 - kl["spon"] / kl["teal"])
    apart = effects["the share of the NLL's minus that of the KL"]
    assert apart == pytest.approx(share - (1 - kl["spon"] / kl["teal"]), abs=1e-6)


@torch.inference_mode()
def own_text(subject: Subject, blocks: int, temperature: float) -> torch.Tensor:
    """Text that the dense model says, at a temperature at which it is sure of itself or doubts."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(64, (blocks, 1), generator=generator)
    for _ in range(15):
        last = subject.model.hidden(tokens)[:, -1] @ subject.model.head.T
        tokens = torch.cat([tokens, torch.multinomial((last / temperature).softmax(-1), 1, generator=generator)], 1)
    return tokens


def on_own_text(subject: Subject, temperature: float) -> Subject:
    tokens = own_text(subject, 200, temperature)
    teacher = teacher_of(subject.model, tokens, "validation")
    a_document_each = torch.arange(len(tokens))[:, None].expand_as(tokens)
    return replace(subject, blocks=Blocks(tokens, a_document_each), teacher=teacher)


def test_text_drawn_from_the_dense_model_has_no_misfit(subject: Subject):
    finding = perplexity.find(on_own_text(subject, 1.0))
    misfit = next(effect for effect in finding.effects if effect.label == "of which misfit")
    kl = next(effect for effect in finding.effects if effect.label == "of which KL")
    assert misfit.interval is not None
    assert misfit.interval[0] < 0 < misfit.interval[1]
    assert misfit.interval[1] - misfit.interval[0] < kl.value  # tight enough to mean it
    assert "by about its KL" in finding.verdict


def test_text_that_the_model_is_too_unsure_of_has_a_misfit(subject: Subject):
    finding = perplexity.find(on_own_text(subject, 0.05))
    assert "by less than its KL" in finding.verdict


def test_no_share_of_an_uncertain_damage_is_given(finding_of):
    finding = finding_of("perplexity", "threshold")
    assert "does not clearly raise the NLL" in finding.verdict
    assert not any("damage recovered" in effect.label for effect in finding.effects)
