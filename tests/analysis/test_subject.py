"""A checkpoint under examination: its biases in every form, where they began, and the model in its modes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from analysis.subject import MODES, Subject, make_subject, output_biases, random_like, start_of, states_of
from search_spaces.errors import SponError
from search_spaces.sites import Site
from tests.analysis.conftest import with_levels
from trainables.evaluation import score
from trainables.training import Trainer

DOWN = Site(0, "down_proj")


@pytest.fixture
def tokens(subject: Subject) -> Tensor:
    return subject.blocks.tokens[:3]


def test_an_output_bias_is_taken_as_it_is(subject: Subject):
    assert subject.biases == subject.checkpoint.biases


def test_an_input_vector_becomes_the_output_bias_w_a(subject_by):
    subject = subject_by("input_vector")
    a, weight = subject.checkpoint.biases[DOWN], subject.model.linear(DOWN).weight
    assert a.shape == (48,)
    torch.testing.assert_close(subject.biases[DOWN], (weight.double() @ a.double()).float())


@pytest.mark.parametrize("kind", ["topk", "threshold", "input_vector"])
def test_the_biases_score_as_the_trial_did(kind, subject_by):
    subject = subject_by(kind)
    with subject.mode("spon"):
        scores = score(subject.model, subject.bench.blocks("validation"), subject.bench.teacher("validation"))
    assert scores.kl_nats == pytest.approx(subject.checkpoint.meta.metrics["val_kl_nats"], rel=1e-4)


@pytest.mark.parametrize("mode", [*MODES, "weighted"])
def test_the_modes_are_what_they_say_and_leave_the_model_dense(mode, subject: Subject, tokens):
    with torch.inference_mode(), subject.mode(mode):
        output = states_of(subject.model, tokens, (DOWN,)).outputs[DOWN]
    subject.model.check_dense()
    with torch.inference_mode(), subject.as_biases(None):
        teal = states_of(subject.model, tokens, (DOWN,)).outputs[DOWN]
    dense = states_of(subject.model, tokens, (DOWN,)).outputs[DOWN]
    biases = {"spon": subject.biases, "random": subject.random, "weighted": subject.weighted}
    added = biases[mode][DOWN] if mode in biases else torch.zeros(32)
    torch.testing.assert_close(output, (dense if mode == "dense" else teal) + added)
    assert not torch.equal(dense, teal)


def test_the_model_is_dense_again_after_a_fault(subject: Subject):
    with pytest.raises(KeyError), subject.mode("spon"):
        raise KeyError
    subject.model.check_dense()


def test_token_scores_are_those_of_the_trials_baselines(subject: Subject):
    nll, kl = subject.tokens["dense"]
    assert nll.equal(subject.teacher.nll)
    assert not kl.any()
    with subject.as_biases(None):
        teal = score(subject.model, subject.blocks, subject.teacher)
    assert float(subject.tokens["teal"][1].double().mean()) == pytest.approx(teal.kl_nats)
    assert set(subject.tokens) == set(MODES)


def test_random_vectors_keep_norms_and_not_directions():
    biases = {DOWN: torch.ones(1000) * 3, Site(1, "down_proj"): torch.zeros(8)}
    drawn = random_like(biases)
    assert drawn[DOWN].norm().item() == pytest.approx(3 * 1000**0.5)
    assert abs(torch.cosine_similarity(drawn[DOWN], biases[DOWN], dim=0)) < 0.15
    assert not drawn[Site(1, "down_proj")].any()
    assert drawn[DOWN].equal(random_like(biases)[DOWN])


def test_weighted_vectors_are_w_times_something_at_the_norms_of_the_biases(subject: Subject):
    for site, vector in subject.weighted.items():
        assert vector.norm().item() == pytest.approx(subject.biases[site].norm().item())
        weight = subject.model.linear(site).weight.detach()
        drawn = torch.linalg.lstsq(weight, vector[:, None]).solution
        torch.testing.assert_close((weight @ drawn)[:, 0], vector, rtol=1e-3, atol=1e-5)


def test_training_that_began_at_zero_has_no_start(subject: Subject):
    assert subject.start == {}
    assert list(subject.parts) == [""]


def test_a_bias_correction_starts_where_the_trainer_starts(subject_by):
    subject = subject_by("input_vector")
    config = subject.config
    trainer = Trainer(subject.bench, config.plan, subject.sites, config.training)
    expected = output_biases(subject.model, trainer.biases.state(), "input_vector")
    start = start_of(subject.bench, config)
    assert start.keys() == expected.keys() == subject.biases.keys()
    for site in start:
        assert start[site].any()
        torch.testing.assert_close(start[site], expected[site])


def test_the_residual_stream_is_that_of_the_hugging_face_model(subject: Subject, tokens):
    states = states_of(subject.model, tokens, subject.sites)
    with torch.inference_mode():
        reference = subject.model.network(tokens, output_hidden_states=True)
    for layer in range(4):  # the last one of theirs is normed
        assert states.residual[layer].equal(reference.hidden_states[layer + 1][:, 1:])  # without the first token
    normed = subject.model.network.model.norm(states.residual[4])
    assert normed.equal(reference.hidden_states[5][:, 1:])
    assert set(states.residual) == set(range(5))
    subject.model.check_dense()


def test_outputs_are_what_the_sites_add_to_the_stream(subject: Subject, tokens):
    site = Site(3, "down_proj")
    seen: list[Tensor] = []
    layer = subject.model.network.model.layers[3]
    handle = layer.post_attention_layernorm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    states = states_of(subject.model, tokens, (site,))
    handle.remove()
    torch.testing.assert_close(states.outputs[site], states.residual[3] - seen[0][:, 1:], rtol=1e-4, atol=1e-4)


def test_a_model_that_nothing_is_taken_from_is_refused(subject: Subject):
    checkpoint = with_levels(subject, {}).checkpoint
    with pytest.raises(SponError, match="sparsifies nothing"):
        make_subject(subject.bench, checkpoint, subject.blocks, subject.teacher, subject.prompts)


def test_biases_that_are_no_numbers_are_refused(subject: Subject):
    broken = replace(subject.checkpoint, biases={DOWN: torch.full((32,), torch.nan)})
    with pytest.raises(SponError, match=r"of finite numbers, but .* has none at 0\.down_proj"):
        make_subject(subject.bench, broken, subject.blocks, subject.teacher, subject.prompts)
