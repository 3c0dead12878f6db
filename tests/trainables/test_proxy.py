"""Masks scored by shared biases: exactly what the sparse model does, and no block twice."""

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
ALL = frozenset(SITES)


@pytest.fixture
def trial(tiny_raw: dict) -> TrialConfig:
    """A bias at every candidate site."""
    tiny_raw["allocations"] = [{"name": "all", "layers": [0, 1], "modules": ["o_proj", "down_proj"]}]
    return trials_of(tiny_raw)[0]


def random_vectors(bench: Workbench, form: str = "output_bias") -> dict[Site, Tensor]:
    generator = torch.Generator().manual_seed(3)
    zeros = SponBiases(bench.model, SITES, form).state()
    return {site: torch.randn(vector.shape, generator=generator) for site, vector in zeros.items()}


@pytest.mark.parametrize("mask", [{SITES[0]}, {SITES[3], SITES[0]}, ALL], ids=["one", "two", "all"])
@pytest.mark.parametrize("form", ["output_bias", "input_vector"])
def test_a_mask_scores_as_an_ordinary_evaluation_with_exactly_its_biases(tiny_bench, trial, mask, form):
    vectors = random_vectors(tiny_bench, form)
    alone = SponBiases.of(tiny_bench.model, {site: vectors[site] for site in SITES if site in mask}, form)
    expected = score_biases(tiny_bench, trial.plan, alone, "validation")
    scores = MaskScorer(tiny_bench, trial.plan, vectors, form).scores(frozenset(mask), 12)
    assert scores[:2] == pytest.approx((expected.kl_nats, expected.nll_nats), rel=1e-12)


@pytest.mark.parametrize("rule", ["topk", "threshold"])
def test_no_site_is_teal_alone_and_all_sites_are_the_trial(tiny_raw, rule):
    (config,) = trials_of(tiny_raw | {"plan": {"rule": rule}})
    bench = Workbench(config.model, config.corpus, "cpu")
    checkpoint = run_trial(bench, config)
    scorer, metrics = MaskScorer(bench, config.plan, checkpoint.biases, "output_bias"), checkpoint.meta.metrics
    none, every = (scorer.scores(frozenset(mask), 12).kl_nats for mask in ((), checkpoint.biases))
    assert none == pytest.approx(metrics["val_teal_kl_nats"], rel=1e-12)
    assert every == pytest.approx(metrics["val_kl_nats"], rel=1e-12)
    assert every < none


def test_a_mask_that_goes_on_runs_only_the_new_blocks(tiny_bench, trial, monkeypatch):
    vectors = random_vectors(tiny_bench)
    scorer, ran, run = MaskScorer(tiny_bench, trial.plan, vectors, "output_bias"), [], MaskScorer._run
    whole = score_biases(tiny_bench, trial.plan, SponBiases.of(tiny_bench.model, vectors, "output_bias"), "validation")
    monkeypatch.setattr(MaskScorer, "_run", lambda self, mask, rows: ran.append(rows) or run(self, mask, rows))
    for n_blocks in (5, 12, 5):
        found = scorer.scores(frozenset(reversed(SITES)), n_blocks)
        assert found.kl_nats == pytest.approx((whole.block_kl[:n_blocks].mean() / 16).item(), rel=1e-6)
        assert found.nll_nats == pytest.approx((whole.block_nll[:n_blocks].mean() / 15).item(), rel=1e-6)
        assert found.block_kl_nats == pytest.approx((whole.block_kl[:n_blocks] / 16).tolist(), rel=1e-6)
    assert ran == [slice(0, 5), slice(5, 12)]


def test_a_site_without_a_shared_bias_is_refused(tiny_bench, trial):
    scorer = MaskScorer(tiny_bench, trial.plan, random_vectors(tiny_bench), "output_bias")
    have = r"0\.o_proj, 0\.down_proj, 1\.o_proj, 1\.down_proj"
    with pytest.raises(SponError, match=rf"shared biases only, but 1\.q_proj has none; there are {have} \(at mask\)"):
        scorer.scores(ALL | {Site(1, "q_proj")}, 4)


@pytest.mark.parametrize("rows", [slice(5), slice(3, 7), slice(0, 12, 3)], ids=str)
def test_some_blocks_come_with_their_own_documents_and_teacher(tiny_bench, rows):
    blocks, teacher = some_blocks(tiny_bench, "validation", rows)
    for part, whole in ((blocks, tiny_bench.blocks("validation")), (teacher, tiny_bench.teacher("validation"))):
        assert all(torch.equal(tensor, vars(whole)[name][rows]) for name, tensor in vars(part).items())


@pytest.mark.parametrize("rows", [slice(0), slice(-1), slice(13), slice(4, 13)], ids=str)
def test_blocks_that_are_not_there_are_refused(tiny_bench, rows):
    with pytest.raises(SponError, match=rf"in 1\.\.12, but got {rows.stop} \(at the validation split\)"):
        some_blocks(tiny_bench, "validation", rows)
