"""What a bias is worth: every change of them, its cost, and what the mean error explains."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.questions import worth
from analysis.questions.norms import scales_of
from analysis.questions.worth import (
    FACTORS,
    Explained,
    design,
    difference,
    explain,
    folded_effects,
    main_effects,
    reliability,
    whole_variants,
)
from analysis.subject import Subject, random_like
from search_spaces.sites import Site
from trainables.evaluation import score, scores_from_tokens
from trainables.proxy import taken
from trainables.scores import Scores

A, B = Site(0, "down_proj"), Site(1, "o_proj")


def noise(seed: int) -> Tensor:
    return torch.randn(50, generator=torch.Generator().manual_seed(seed))


def test_a_bias_splits_exactly_along_the_mean_error():
    bias, error = noise(0), noise(1)
    found = explain(bias, error)
    torch.testing.assert_close(found.on + found.off, bias)
    assert found.off.double() @ error.double() == pytest.approx(0, abs=1e-5)
    assert found.cosine == pytest.approx(torch.cosine_similarity(bias, error, dim=0).item(), abs=1e-6)
    assert (found.on.norm() / bias.norm()).item() == pytest.approx(abs(found.cosine), abs=1e-6)


def test_a_multiple_of_the_mean_error_is_explained_whole():
    found = explain(-0.3 * noise(1), noise(1))
    assert (found.cosine, found.scale) == pytest.approx((-1, -0.3))
    assert found.off.norm() < 1e-5


@pytest.mark.parametrize(("bias", "error"), [(noise(0), torch.zeros(50)), (torch.zeros(50), noise(1))])
def test_without_an_error_or_a_bias_nothing_is_explained(bias, error):
    found = explain(bias, error)
    assert (found.cosine, found.scale) == (0, 0)
    assert found.off.equal(bias)


@pytest.mark.parametrize("n", [1, 5, 30, 32, 210])
def test_each_site_is_on_in_half_of_the_runs_and_any_two_in_a_quarter(n):
    on = design(n).astype(int)
    assert on.shape[1] == n < len(on)
    assert (on.sum(axis=0) == len(on) / 2).all()
    together = on.T @ on
    assert (together[~np.eye(n, dtype=bool)] == len(on) / 4).all()


def test_what_sites_take_off_is_found_exactly_where_they_add_up():
    rng, on = np.random.default_rng(0), design(6)
    worth_of = rng.normal(size=(6, 3))
    np.testing.assert_allclose(main_effects(on, 7 - on @ worth_of), worth_of)


def test_an_order_of_sites_is_reliable_where_documents_agree_on_it():
    rng, units = np.random.default_rng(0), np.arange(8)
    real, noise = np.linspace(0, 1, 20)[:, None], rng.normal(size=(20, 8))
    assert reliability(real + 0.1 * noise, units) > 0.9
    assert abs(reliability(noise, units)) < 0.6
    assert np.isnan(reliability(noise, np.zeros(8, dtype=int)))
    assert np.isnan(reliability(noise[:1], units))


def test_every_change_of_all_is_there_and_is_what_it_says():
    biases = {A: noise(0), B: noise(1)}
    explained = {A: Explained(0.5, 1.0, noise(4), noise(5))}  # B is outside the plan: it has no error
    found = whole_variants(biases, explained)
    rest = {"on the mean error", "off the mean error"}
    assert set(found) == rest | {f"times {factor}" for factor in FACTORS if factor != 1}
    assert found["times 1.5"][B].equal(1.5 * biases[B])
    assert found["on the mean error"] == {A: explained[A].on}
    assert found["off the mean error"][A].equal(explained[A].off)
    assert found["off the mean error"][B].equal(biases[B])


def scores(kl: np.ndarray) -> Scores:
    values = torch.from_numpy(kl)

    class Text:
        documents = torch.zeros(kl.shape, dtype=torch.int64)

    return scores_from_tokens(values[:, 1:], values, Text)  # type: ignore[arg-type]


def test_a_difference_is_paired_by_block():
    base = np.random.default_rng(0).exponential(1.0, (8, 10))
    found = difference(scores(base + 0.1), scores(base), np.arange(8))
    assert found == pytest.approx((0.1, 0.1, 0.1))


def test_a_joint_effect_of_two_others_cancels_over_every_two_blocks():
    worth_of = np.array([3.0, 5.0, 1.0, 2.0])

    def measure(runs, places):
        kl = 7 - runs @ worth_of + 4 * (runs[:, 0] & runs[:, 1])
        return np.tile(kl[:, None], (1, len(places)))

    own = folded_effects(4, torch.arange(6), measure)
    np.testing.assert_allclose(own.mean(axis=1), worth_of - [2, 2, 0, 0])
    assert own[2].std() > 1  # the interval says that single blocks are off


def test_what_a_bias_takes_off_is_the_mean_over_runs_on_blocks_at_even_distances(subject: Subject, finding_of):
    site, on = subject.sites[2], design(len(subject.sites))
    kl: dict[bool, list[float]] = {True: [], False: []}
    for start, runs in enumerate((on, ~on)):
        blocks, teacher = taken(subject.blocks, subject.teacher, torch.arange(0, 32, 4)[start::2])
        for run in runs:
            some = {other: subject.biases[other] for other, is_on in zip(subject.sites, run, strict=True) if is_on}
            with subject.as_biases(some):
                kl[site in some].append(score(subject.model, blocks, teacher).kl_nats)
    row = next(row for row in finding_of("worth", "topk").rows if row["site"] == str(site))
    assert row["kl_taken_off"] == pytest.approx(np.mean(kl[False]) - np.mean(kl[True]), abs=1e-9)


def test_a_zero_bias_takes_off_nothing(finding_of):
    row = finding_of("worth", "zero").rows[0]
    assert row["kl_taken_off"] == pytest.approx(0, abs=1e-12)
    assert row["mean_error_cosine"] == 0


def test_one_site_has_neither_an_interval_over_sites_nor_an_order(finding_of):
    finding = finding_of("worth", "one")
    explained = next(effect for effect in finding.effects if effect.label.startswith("share of a bias"))
    assert explained.interval is None
    assert not any("reliability" in effect.label for effect in finding.effects)


def test_the_mean_error_is_recognised_and_random_vectors_are_not(subject: Subject):
    errors = {site: scale.mean_error for site, scale in scales_of(subject).items()}

    def share(biases: dict[Site, Tensor]) -> tuple[float, tuple[float, float] | None]:
        effects = worth.find(replace(subject, biases=biases)).effects
        effect = next(effect for effect in effects if effect.label.startswith("share of a bias"))
        return effect.value, effect.null

    value, null = share(errors)
    assert value == pytest.approx(1)
    assert null is not None
    assert null[1] < 0.2
    value, null = share(random_like(errors, seed=11))
    assert null is not None
    assert null[0] <= value <= null[1]


def test_the_mean_error_lowers_the_kl_and_its_opposite_raises_it(subject: Subject):
    errors = {site: 0.5 * scale.mean_error for site, scale in scales_of(subject).items()}
    assert worth.find(replace(subject, biases=errors)).verdict.startswith("together they lower the KL")
    opposite = {site: -4 * error for site, error in errors.items()}
    assert worth.find(replace(subject, biases=opposite)).verdict.startswith("together they raise the KL")


def test_what_training_added_is_without_the_start(subject_by):
    subject: Subject = subject_by("input_vector")
    finding = worth.find(replace(subject, biases=subject.start))
    effects = {effect.label.partition(" that ")[0]: effect.value for effect in finding.effects}
    assert effects["share of a bias"] > 0.8
    assert effects["share of what training added to its start"] == 0
