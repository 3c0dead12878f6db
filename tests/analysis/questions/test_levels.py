"""What levels cost: parts that are switched on and off, what curves predict, and ranks on their nulls."""

from collections.abc import Callable

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


def test_ranks_that_agree_are_beyond_shuffled_ones_and_a_constant_has_none():
    rising = np.arange(20.0).tolist()
    value, (low, high) = ranked_alike(rising, [x**3 for x in rising]) or (0.0, (0.0, 0.0))
    assert value == pytest.approx(1)
    assert -0.6 < low < -0.3 < 0.3 < high < 0.6
    assert ranked_alike(rising, [1.0] * 20) is None
    assert ranked_alike(rising[:4], rising[:4]) is None


def test_what_a_part_costs_is_the_mean_over_runs_with_it_less_those_without(subject: Subject, finding_of):
    sites = [Site.parse(site) for site in subject.config.plan.levels]
    chosen, place = torch.arange(0, 32, 4), 2
    blocks, teacher = taken(subject.blocks, subject.teacher, chosen)
    kl: dict[bool, list[float]] = {True: [], False: []}
    for run in design(len(sites)):
        on = {str(site): 0.6 for site, is_on in zip(sites, run, strict=True) if is_on}
        with with_levels(subject, on).as_biases(None):
            kl[bool(run[place])].append(score(subject.model, blocks, teacher).kl_nats)
    row = next(
        row
        for row in finding_of("levels", "topk").rows
        if row["place"] == f"{sites[place].module} {sites[place].layer}"
    )
    assert row["kl_nats"] == pytest.approx(np.mean(kl[True]) - np.mean(kl[False]), abs=1e-9)


def test_the_whole_plan_is_measured_on_all_blocks_and_priced_by_the_sum_of_its_sites(subject: Subject, finding_of):
    finding = finding_of("levels", "topk")
    whole = effects_of(finding)["KL of the whole plan, TEAL"]
    assert whole.value == pytest.approx(scores_from_tokens(*subject.tokens["teal"], subject.blocks).kl_nats)
    price = sum(row["predicted_nats"] for row in finding.rows if row["what"] == "site")  # type: ignore[misc]
    assert whole.null == pytest.approx((price, price))
    assert effects_of(finding)["KL of the whole plan over the predicted one"].value == pytest.approx(
        whole.value / price
    )


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


def test_levels_that_are_all_alike_are_not_ranked_and_said_in_the_verdict(finding_of):
    finding = finding_of("levels", "topk")
    assert not any(label.endswith("sites' level") for label in effects_of(finding))
    assert "nats that the curves predict" in finding.verdict
    assert "of 5 parts" in finding.verdict


def test_a_plan_that_costs_more_than_predicted_is_said_to(subject: Subject, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(levels, "predicted_kl", lambda *_: 1e-9)
    finding = levels.find(subject)
    assert finding.verdict.startswith("TEAL costs more than the 5e-09 nats")
    monkeypatch.setattr(levels, "predicted_kl", lambda *_: 1.0)
    finding = levels.find(subject)
    assert finding.verdict.startswith("TEAL costs less than the 5 nats")
    assert effects_of(finding)["parts that clearly cost less than predicted, of 5"].value == 5
