"""What levels cost: parts that are switched on and off, what curves predict, and ranks on their nulls."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.finding import Effect, Finding
from analysis.questions import levels
from analysis.questions.levels import parts_of, ranked_alike
from analysis.questions.worth import design
from analysis.subject import Subject
from search_spaces.sites import Site
from tests.analysis.conftest import with_levels
from trainables.evaluation import score, scores_from_tokens
from trainables.importance import by_gain
from trainables.proxy import taken

ALL = [Site(layer, module) for layer in range(30) for module in ("q_proj", "down_proj")]


def effects_of(finding: Finding) -> dict[str, Effect]:
    return {effect.label: effect for effect in finding.effects}


def test_a_part_is_a_module_in_a_band_of_layers_and_there_are_few_parts():
    parts = parts_of(ALL, 30)
    assert len(parts) == 14
    assert parts["down_proj 5-8"] == [Site(layer, "down_proj") for layer in range(5, 9)]
    assert sorted(site for sites in parts.values() for site in sites) == sorted(ALL)
    assert list(parts_of(ALL[:6], 3)) == [
        "q_proj 0",
        "down_proj 0",
        "q_proj 1",
        "down_proj 1",
        "q_proj 2",
        "down_proj 2",
    ]


def by_site(figure: Callable[[int, int], float], layers: int = 20) -> dict[Site, float]:
    """A figure of each site of two modules, from the layer and the number of the module."""
    modules = ("q_proj", "down_proj")
    return {Site(layer, name): figure(layer, place) for layer in range(layers) for place, name in enumerate(modules)}


def test_ranks_that_agree_by_layer_are_beyond_shifted_layers():
    rising = by_site(lambda layer, module: layer)
    value, (low, high) = ranked_alike(rising, rising) or (0.0, (0.0, 0.0))
    assert value == pytest.approx(1)
    assert low < 0 < high < value


def test_modules_that_differ_are_no_sign_of_anything():
    noise = np.random.default_rng(0).normal(size=(2, 20, 2))
    one, other = (by_site(lambda layer, module, of=of: 100 * module + of[layer, module]) for of in noise)
    value, (low, high) = ranked_alike(one, other) or (0.0, (0.0, 0.0))
    assert low < value < high
    assert value > 0.5


def test_a_constant_or_few_layers_are_not_ranked():
    rising, constant = by_site(lambda layer, module: layer), by_site(lambda layer, module: 0.5)
    assert ranked_alike(rising, constant) is None
    assert ranked_alike(by_site(lambda layer, module: layer, 7), by_site(lambda layer, module: layer, 7)) is None
    assert ranked_alike({}, {}) is None


def test_what_a_part_costs_is_the_mean_over_runs_with_it_less_those_without(subject: Subject, finding_of):
    sites, place = [Site.parse(site) for site in subject.config.plan.levels], 2
    kl: dict[bool, list[float]] = {True: [], False: []}
    for start, runs in enumerate((design(len(sites)), ~design(len(sites)))):
        blocks, teacher = taken(subject.blocks, subject.teacher, torch.arange(0, 32, 4)[start::2])
        for run in runs:
            on = {str(site): 0.6 for site, is_on in zip(sites, run, strict=True) if is_on}
            with with_levels(subject, on).as_biases(None):
                kl[bool(run[place])].append(score(subject.model, blocks, teacher).kl_nats)
    row = next(row for row in finding_of("levels", "topk").rows if row["place"] == f"down_proj {sites[place].layer}")
    assert row["kl_nats"] == pytest.approx(np.mean(kl[True]) - np.mean(kl[False]), abs=1e-9)


def test_the_whole_plan_is_measured_on_all_blocks_and_priced_by_the_sum_of_its_sites(subject: Subject, finding_of):
    finding = finding_of("levels", "topk")
    found = effects_of(finding)
    measured, predicted = (found[f"KL of the whole plan, {of}"].value for of in ("TEAL", "predicted"))
    assert measured == pytest.approx(scores_from_tokens(*subject.tokens["teal"], subject.blocks).kl_nats)
    price = sum(row["predicted_nats"] for row in finding.rows if row["what"] == "site")  # type: ignore[misc]
    assert predicted == pytest.approx(price)
    assert found["KL of the whole plan over the predicted one"].value == pytest.approx(measured / predicted)


def test_the_error_of_the_prediction_counts(finding_of):
    found = effects_of(finding_of("levels", "topk"))
    over, measured, predicted = (
        found[f"KL of the whole plan{of}"] for of in (" over the predicted one", ", TEAL", ", predicted")
    )
    halves = [(one.interval[1] - one.value) / predicted.value for one in (measured, predicted)]  # type: ignore[index]
    assert over.interval[1] - over.value == pytest.approx(np.hypot(*halves))  # type: ignore[index]


def test_curves_price_small_levels_of_a_tiny_model_rightly(subject: Subject):
    small = with_levels(subject, dict.fromkeys(subject.config.plan.levels, 0.15))
    finding = levels.find(small)
    assert effects_of(finding)["KL of the whole plan over the predicted one"].value == pytest.approx(1, abs=0.3)


def test_gains_are_those_of_the_biases_at_sites_of_the_plan(subject_by: Callable[[str], Subject], finding_of):
    subject = subject_by("one")
    (gain,) = by_gain(subject.bench, subject.config.plan, subject.biases, 8).value
    rows = {row["place"]: row["gain_nats"] for row in finding_of("levels", "one").rows if row["what"] == "site"}
    assert rows.pop(str(subject.sites[0])) == pytest.approx(gain)
    assert set(rows.values()) == {None}


def test_a_plan_that_costs_more_or_less_than_predicted_is_said_to(subject: Subject, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(levels, "predicted_kl", lambda *_: 1e-9)
    finding = levels.find(subject)
    assert " nats is clearly above the 5e-09 that the curves predict; of 5 parts" in finding.verdict
    monkeypatch.setattr(levels, "predicted_kl", lambda *_: 1.0)
    finding = levels.find(subject)
    assert " nats is clearly below the 5 that the curves predict" in finding.verdict
    assert effects_of(finding)["parts that clearly cost less than predicted, of 5"].value == 5


def test_a_text_of_one_document_makes_nothing_clear(subject: Subject):
    one = replace(subject)
    one.__dict__["units"] = np.zeros(len(subject.blocks.tokens), dtype=np.int64)
    finding = levels.find(one)
    assert "not clearly above or below" in finding.verdict
    assert "0 clearly cost more and 0 less" in finding.verdict
