"""Masks scored by shared biases: exactly what the sparse model does, and no block twice."""

import itertools

import pytest
import torch
from torch import Tensor

from search_spaces.errors import SponError
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig
from tests.conftest import trials_of
from trainables.proxy import MaskScorer, some_blocks
from trainables.spon import SponBiases
from trainables.trial import run_trial, score_biases
from trainables.workbench import Workbench

SITES = tuple(Site(layer, module) for layer in (0, 1) for module in ("o_proj", "down_proj"))
ALL, NONE = frozenset(SITES), frozenset()
MASKS = [frozenset(sites) for size in range(5) for sites in itertools.combinations(SITES, size)]
STRANGER = Site(1, "q_proj")


@pytest.fixture
def trial(tiny_raw: dict) -> TrialConfig:
    """A bias at every candidate site."""
    tiny_raw["allocations"] = [{"name": "all", "layers": [0, 1], "modules": ["o_proj", "down_proj"]}]
    return trials_of(tiny_raw)[0]


@pytest.fixture
def scorer(tiny_bench: Workbench, trial: TrialConfig) -> MaskScorer:
    return scorer_of(tiny_bench, trial)


def random_vectors(width: int = 32) -> dict[Site, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {site: torch.randn(width, generator=generator) for site in SITES}


def scorer_of(bench: Workbench, trial: TrialConfig) -> MaskScorer:
    return MaskScorer(bench, trial.plan, random_vectors())


@pytest.mark.parametrize("mask", [MASKS[1], MASKS[7], ALL], ids=["one", "two", "all"])
@pytest.mark.parametrize("form", ["output_bias", "input_vector"])
@pytest.mark.parametrize("split", ["calibration", "validation"])
def test_a_mask_scores_as_an_ordinary_evaluation_with_exactly_its_biases(tiny_bench, trial, mask, form, split):
    shapes = tiny_bench.model.shape.sites
    widths = {site: 32 if form == "output_bias" else shapes[site].in_features for site in SITES}
    vectors = {site: vector[: widths[site]] for site, vector in random_vectors(48).items()}
    alone = SponBiases(tiny_bench.model, tuple(site for site in SITES if site in mask), form)
    alone.load({site: vectors[site] for site in alone.vectors})
    expected = score_biases(tiny_bench, trial.plan, alone, split)
    scorer = MaskScorer(tiny_bench, trial.plan, vectors, split, form)
    scores = scorer.scores(mask, len(expected.block_kl))
    assert scores[:2] == pytest.approx((expected.kl_nats, expected.nll_nats), rel=1e-12)


def test_no_site_is_teal_alone_and_all_sites_are_the_trial(tiny_bench, trial):
    checkpoint = run_trial(tiny_bench, trial)
    scorer = MaskScorer(tiny_bench, trial.plan, checkpoint.biases)
    metrics = checkpoint.meta.metrics
    assert scorer.kl_nats(NONE, 12) == pytest.approx(metrics["val_teal_kl_nats"], rel=1e-12)
    assert scorer.kl_nats(ALL, 12) == pytest.approx(metrics["val_kl_nats"], rel=1e-12)
    assert scorer.kl_nats(ALL, 12) < scorer.kl_nats(NONE, 12)


def test_a_mask_is_scored_under_the_thresholds_of_its_plan(tiny_raw):
    (config,) = trials_of(tiny_raw | {"plan": {"rule": "threshold"}, "allocations": ["UNIF-ALL"]})
    bench = Workbench(config.model, config.corpus, "cpu")
    checkpoint = run_trial(bench, config)
    kl = MaskScorer(bench, config.plan, checkpoint.biases).kl_nats(frozenset(checkpoint.biases), 12)
    assert kl == pytest.approx(checkpoint.meta.metrics["val_kl_nats"], rel=1e-12)


def test_the_blocks_are_the_first_of_the_split(tiny_bench, trial, scorer):
    biases = SponBiases(tiny_bench.model, SITES, "output_bias")
    biases.load(random_vectors())
    whole = score_biases(tiny_bench, trial.plan, biases, "validation")
    assert scorer.kl_nats(ALL, 5) == pytest.approx((whole.block_kl[:5].mean() / 16).item(), rel=1e-6)


def test_the_kl_is_that_of_the_scores(scorer):
    assert scorer.kl_nats(ALL, 5) == scorer.scores(ALL, 5).kl_nats


def test_a_mask_that_goes_on_to_more_blocks_runs_only_the_new_ones(scorer, monkeypatch):
    scorer.scores(ALL, 4)
    ran = []
    plain = MaskScorer._run
    monkeypatch.setattr(MaskScorer, "_run", lambda self, mask, rows: ran.append(rows) or plain(self, mask, rows))
    scorer.scores(ALL, 12)
    assert ran == [slice(4, 12)]
    assert scorer.evaluated == 12


def test_blocks_scored_in_two_goes_score_as_in_one(tiny_bench, trial, scorer):
    scorer.scores(ALL, 4)
    ours, theirs = scorer.scores(ALL, 12), scorer_of(tiny_bench, trial).scores(ALL, 12)
    assert ours[:2] == pytest.approx(theirs[:2], rel=1e-6)
    assert ours.block_kl_nats == pytest.approx(theirs.block_kl_nats, rel=1e-6)


def test_a_mask_keeps_one_array_however_often_it_went_on(scorer):
    for n_blocks in (2, 5, 9):
        scorer.scores(ALL, n_blocks)
    assert scorer._known[ALL].shape == (9, 4)
    assert scorer._known[ALL].untyped_storage().nbytes() == 9 * 4 * 8


def test_a_known_mask_is_not_run_again(scorer):
    first = scorer.scores(frozenset(SITES[:2]), 5)
    assert scorer.scores(frozenset(reversed(SITES[:2])), 5) == first
    assert scorer.evaluated == 5


def test_fewer_blocks_of_a_known_mask_cost_nothing(tiny_bench, trial, scorer):
    scorer.scores(ALL, 12)
    ours, theirs = scorer.scores(ALL, 4), scorer_of(tiny_bench, trial).scores(ALL, 4)
    assert ours[:2] == pytest.approx(theirs[:2], rel=1e-6)
    assert ours.block_kl_nats == pytest.approx(theirs.block_kl_nats, rel=1e-6)
    assert scorer.evaluated == 12


def test_blocks_are_counted_for_each_mask(scorer):
    assert scorer.evaluated == 0
    scorer.kl_nats(ALL, 5)
    scorer.kl_nats(NONE, 3)
    assert scorer.evaluated == 8


def test_candidates_are_in_canonical_order(tiny_bench, trial):
    vectors = dict(reversed(random_vectors().items()))
    assert MaskScorer(tiny_bench, trial.plan, vectors).candidates == SITES


def test_the_model_is_dense_afterwards(tiny_bench, scorer):
    scorer.kl_nats(ALL, 2)
    tiny_bench.model.check_dense()


@pytest.mark.parametrize("method", ["kl_nats", "scores"])
def test_a_site_without_a_shared_bias_is_refused(scorer, method):
    with pytest.raises(SponError, match=r"shared biases only, but 1\.q_proj has none; there are 0\.o_proj.*at mask"):
        getattr(scorer, method)(ALL | {STRANGER}, 4)


def test_the_test_split_is_refused_even_where_it_is_open(trial):
    bench = Workbench(trial.model, trial.corpus, "cpu", open_test=True)
    with pytest.raises(SponError, match="text that choices may see, but got 'test'"):
        MaskScorer(bench, trial.plan, random_vectors(), split="test")


def test_more_blocks_than_there_are_are_refused(scorer):
    with pytest.raises(SponError, match=r"in 1\.\.12, but got 13 \(at the validation split\)"):
        scorer.scores(ALL, 13)


def test_biases_that_do_not_fit_are_refused_at_once(tiny_bench, trial):
    with pytest.raises(ValueError, match="biases must have the sites and shapes"):
        MaskScorer(tiny_bench, trial.plan, random_vectors(31))


def test_no_shared_bias_at_all_is_refused(tiny_bench, trial):
    with pytest.raises(SponError, match="to choose from, but got none"):
        MaskScorer(tiny_bench, trial.plan, {})


@pytest.mark.parametrize("rows", [slice(5), slice(3, 7), slice(None)], ids=str)
def test_some_blocks_come_with_their_own_documents_and_teacher(tiny_bench, rows):
    blocks, teacher = some_blocks(tiny_bench, "validation", rows)
    whole, every = tiny_bench.blocks("validation"), tiny_bench.teacher("validation")
    assert torch.equal(blocks.tokens, whole.tokens[rows])
    assert torch.equal(blocks.documents, whole.documents[rows])
    assert torch.equal(teacher.mean_row, every.mean_row[rows])
    assert torch.equal(teacher.entropy, every.entropy[rows])
    assert torch.equal(teacher.nll, every.nll[rows])


@pytest.mark.parametrize("rows", [slice(0), slice(-1), slice(13), slice(4, 13)], ids=str)
def test_blocks_that_are_not_there_are_refused(tiny_bench, rows):
    with pytest.raises(SponError, match=rf"in 1\.\.12, but got {rows.stop} \(at the validation split\)"):
        some_blocks(tiny_bench, "validation", rows)


def test_blocks_of_a_closed_test_split_are_refused(tiny_bench):
    with pytest.raises(SponError, match="for the final report only"):
        some_blocks(tiny_bench, "test", slice(4))
