"""Masks scored by shared biases: exactly what the sparse model does; and the second-order model of it."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from search_spaces.errors import SponError
from search_spaces.schema import TrialConfig
from search_spaces.sites import Site
from tests.conftest import trials_of
from trainables import loss, model
from trainables.loss import linear_kl
from trainables.proxy import MaskScorer, QuadraticProxy, expansion, first_blocks, warm_start
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


def random_vectors(scale: float, width: int = 32) -> dict[Site, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {site: scale * torch.randn(width, generator=generator) for site in SITES}


def scorer_of(bench: Workbench, trial: TrialConfig, scale: float = 1.0, n_blocks: int | None = None) -> MaskScorer:
    return MaskScorer(bench, trial.plan, random_vectors(scale), n_blocks)


@pytest.mark.parametrize("mask", [MASKS[1], MASKS[7], ALL], ids=["one", "two", "all"])
@pytest.mark.parametrize("form", ["output_bias", "input_vector"])
def test_a_mask_scores_as_a_trial_with_exactly_its_biases(tiny_bench, trial, mask, form):
    shapes = tiny_bench.model.shape.sites
    vectors = random_vectors(1.0, 48)
    if form == "output_bias":
        vectors = {site: v[:32] for site, v in vectors.items()}
    else:
        vectors = {site: v[: shapes[site].in_features] for site, v in vectors.items()}
    alone = SponBiases(tiny_bench.model, tuple(s for s in SITES if s in mask), form)
    alone.load({site: vectors[site] for site in alone.vectors})
    scorer = MaskScorer(tiny_bench, trial.plan, vectors, None, form=form)
    expected = score_biases(tiny_bench, trial.plan, alone, "validation")
    torch.testing.assert_close(scorer.scores(mask).tensors(), expected.tensors(), rtol=0, atol=0)
    assert scorer.kl_nats(mask) == expected.kl_nats


def test_no_site_is_teal_alone_and_all_sites_are_the_trial(tiny_bench, trial):
    checkpoint = run_trial(tiny_bench, trial)
    scorer = MaskScorer(tiny_bench, trial.plan, checkpoint.biases, None)
    teal, spon = checkpoint.scores["validation.teal"], checkpoint.scores["validation.spon"]
    torch.testing.assert_close(scorer.scores(NONE).tensors(), teal.tensors(), rtol=0, atol=0)
    torch.testing.assert_close(scorer.scores(ALL).tensors(), spon.tensors(), rtol=0, atol=0)
    assert scorer.kl_nats(ALL) < scorer.kl_nats(NONE)


def test_the_blocks_are_the_first_of_validation(tiny_bench, trial):
    whole, part = scorer_of(tiny_bench, trial), scorer_of(tiny_bench, trial, n_blocks=5)
    torch.testing.assert_close(part.scores(ALL).block_kl, whole.scores(ALL).block_kl[:5])
    torch.testing.assert_close(part.scores(ALL).block_nll, whole.scores(ALL).block_nll[:5])


def test_a_mask_is_run_once_and_blocks_are_counted(tiny_bench, trial):
    scorer = scorer_of(tiny_bench, trial, n_blocks=5)
    assert scorer.evaluated == 0
    first = scorer.scores(frozenset(SITES[:2]))
    assert scorer.evaluated == 5
    assert scorer.scores(frozenset(reversed(SITES[:2]))) is first
    assert scorer.evaluated == 5
    scorer.kl_nats(NONE)
    assert scorer.evaluated == 10


def test_the_model_is_dense_afterwards(tiny_bench, trial):
    scorer_of(tiny_bench, trial).kl_nats(ALL)
    tiny_bench.model.check_dense()


@pytest.mark.parametrize("method", ["kl_nats", "scores"])
def test_a_site_without_a_shared_bias_is_refused(tiny_bench, trial, method):
    with pytest.raises(SponError, match=r"shared biases only, but 1\.q_proj has none; there are 0\.o_proj.*at mask"):
        getattr(scorer_of(tiny_bench, trial), method)(ALL | {STRANGER})


def test_the_test_split_is_refused_even_where_it_is_open(trial):
    bench = Workbench(trial.model, trial.corpus, "cpu", open_test=True)
    with pytest.raises(SponError, match="text that choices may see, but got 'test'"):
        MaskScorer(bench, trial.plan, random_vectors(1.0), None, split="test")


@pytest.mark.parametrize("n_blocks", [0, -1, 13])
def test_blocks_that_are_not_there_are_refused(tiny_bench, n_blocks):
    with pytest.raises(SponError, match=rf"in 1\.\.12, but got {n_blocks} \(at the validation split\)"):
        first_blocks(tiny_bench, "validation", n_blocks)


def test_biases_that_do_not_fit_are_refused_at_once(tiny_bench, trial):
    with pytest.raises(ValueError, match="biases must have the sites and shapes"):
        MaskScorer(tiny_bench, trial.plan, random_vectors(1.0, 31), None)


def test_no_shared_bias_at_all_is_refused(tiny_bench, trial):
    with pytest.raises(SponError, match="to choose from, but got none"):
        MaskScorer(tiny_bench, trial.plan, {}, None)


def test_a_warm_start_is_a_copy_of_the_sites_of_the_mask_in_order():
    shared = random_vectors(1.0)
    start = warm_start(shared, {SITES[3], SITES[0]})
    assert list(start) == [SITES[0], SITES[3]]
    start[SITES[0]].zero_()
    assert shared[SITES[0]].any()
    with pytest.raises(SponError, match=r"1\.q_proj has none"):
        warm_start(shared, {STRANGER})


@pytest.fixture
def tokens64() -> dict[str, Tensor]:
    """Hidden states of 13 tokens, what 3 sites add to them, and a teacher; fp64."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    head = normal(29, 6)
    log_p = (2 * normal(13, 6) @ head.T).log_softmax(-1)
    mean_row, entropy = log_p.exp() @ head, -(log_p.exp() * log_p).sum(-1)
    return {"hidden": normal(13, 6), "deltas": normal(13, 3, 6), "head": head, "mean_row": mean_row, "entropy": entropy}


def moved_kl(numbers: dict[str, Tensor], r: Tensor) -> Tensor:
    """KL with the hidden states moved by r . delta, mean over tokens."""
    moved = numbers["hidden"] + torch.einsum("n,tnh->th", r, numbers["deltas"])
    return linear_kl(moved, numbers["head"], numbers["mean_row"], numbers["entropy"])


def test_the_expansion_has_the_derivatives_of_the_kl(tokens64, monkeypatch):
    monkeypatch.setitem(loss.CHUNK_TOKENS, "cpu", 20)  # five tokens a chunk
    kl, gradient, curvature = (total / 13 for total in expansion(**tokens64))

    def plain(r: Tensor) -> Tensor:
        logits = (tokens64["hidden"] + torch.einsum("n,tnh->th", r, tokens64["deltas"])) @ tokens64["head"].T
        own = logits.logsumexp(-1) - (logits @ torch.linalg.pinv(tokens64["head"]).T * tokens64["mean_row"]).sum(-1)
        return (own - tokens64["entropy"]).mean()

    zero = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(kl, moved_kl(tokens64, zero))
    torch.testing.assert_close(gradient, torch.autograd.functional.jacobian(plain, zero))
    torch.testing.assert_close(curvature, torch.autograd.functional.hessian(plain, zero))


def test_the_error_of_the_expansion_falls_as_the_cube(tokens64):
    kl, gradient, curvature = (total / 13 for total in expansion(**tokens64))
    r = torch.tensor([1.0, 0.5, -0.7], dtype=torch.float64)

    def error(scale: float) -> float:
        modelled = kl + scale * gradient @ r + scale**2 * r @ curvature @ r / 2
        return abs((moved_kl(tokens64, scale * r) - modelled).item())

    assert error(0.01) / error(0.005) == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize(("around", "base"), [("full", ALL), ("empty", NONE)])
def test_the_proxy_is_exact_at_its_base(tiny_bench, trial, around, base):
    scorer = scorer_of(tiny_bench, trial)
    proxy = QuadraticProxy.build(scorer, around)
    assert proxy.base == base
    assert proxy.kl_nats(base) == pytest.approx(scorer.kl_nats(base), rel=1e-5)


@pytest.mark.parametrize("around", ["full", "empty"])
def test_small_biases_are_modelled_well(tiny_bench, trial, around):
    """One flip moves h by exactly its delta: only the softmax is approximated. Of several, the crossings are too."""
    scorer = scorer_of(tiny_bench, trial, scale=0.1)
    proxy = QuadraticProxy.build(scorer, around)
    true, modelled = (np.array([score(mask) for mask in MASKS]) for score in (scorer.kl_nats, proxy.kl_nats))
    one_flip = [len(mask ^ proxy.base) == 1 for mask in MASKS]
    spread = true.max() - true.min()
    assert np.abs(modelled - true)[one_flip].max() < 0.1 * spread
    assert np.abs(modelled - true).max() < 0.4 * spread
    assert np.corrcoef(modelled, true)[0, 1] > 0.95


def test_a_flip_of_one_site_is_wrong_by_the_third_order_only(tiny_bench, trial):
    def error(scale: float) -> float:
        scorer = scorer_of(tiny_bench, trial, scale)
        proxy, mask = QuadraticProxy.build(scorer, "empty"), frozenset(SITES[-1:])
        return abs(proxy.kl_nats(mask) - scorer.kl_nats(mask))

    assert error(0.4) / error(0.2) == pytest.approx(8, rel=0.5)


def test_the_curvature_is_symmetric_and_not_negative(tiny_bench, trial):
    curvature = QuadraticProxy.build(scorer_of(tiny_bench, trial)).curvature
    np.testing.assert_allclose(curvature, curvature.T, rtol=1e-6)
    assert np.linalg.eigvalsh(curvature).min() > -1e-6


@pytest.mark.parametrize(("chunk", "batch"), [(7, 12), (1000, 5)])
def test_neither_chunks_nor_batches_change_the_proxy(tiny_bench, trial, monkeypatch, chunk, batch):
    whole = QuadraticProxy.build(scorer_of(tiny_bench, trial))
    monkeypatch.setitem(loss.CHUNK_TOKENS, "cpu", chunk)
    monkeypatch.setitem(model._INFERENCE_TOKENS, "cpu", batch * 16)
    parts = QuadraticProxy.build(scorer_of(tiny_bench, trial))
    assert parts.constant == pytest.approx(whole.constant, rel=1e-5)
    np.testing.assert_allclose(parts.gradient, whole.gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(parts.curvature, whole.curvature, rtol=1e-4, atol=1e-6)


def test_the_proxy_costs_a_pass_a_site_and_one_and_then_nothing(tiny_bench, trial):
    scorer = scorer_of(tiny_bench, trial, n_blocks=3)
    proxy = QuadraticProxy.build(scorer)
    assert scorer.evaluated == 5 * 3
    proxy.kl_nats(NONE)
    assert scorer.evaluated == 5 * 3


def test_the_proxy_refuses_a_site_without_a_shared_bias(tiny_bench, trial):
    with pytest.raises(SponError, match=r"1\.q_proj has none"):
        QuadraticProxy.build(scorer_of(tiny_bench, trial)).kl_nats(frozenset({STRANGER}))
