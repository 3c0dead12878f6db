"""Scores: sums by block and by document that add up, and agree with the library's own loss."""

import math

import pytest
import torch

from search_spaces.errors import SponError
from trainables import loss
from trainables.evaluation import dense_scores, score, scores_from_tokens
from trainables.model import resident as model
from trainables.scores import Scores, mean_scores
from trainables.sparse import sparsified
from trainables.text.corpus import Blocks
from trainables.workbench import Workbench


@pytest.fixture
def blocks(tiny_bench: Workbench) -> Blocks:
    return tiny_bench.blocks("validation")


@pytest.fixture
def sparse_scores(tiny_bench: Workbench, tiny_trial: object, blocks: Blocks) -> Scores:
    teacher = tiny_bench.teacher("validation")
    with sparsified(tiny_bench.model, tiny_trial.plan, {}):
        return score(tiny_bench.model, blocks, teacher)


def test_the_nll_is_the_loss_of_the_library_on_each_block(tiny_bench, blocks):
    scores = score(tiny_bench.model, blocks, tiny_bench.teacher("validation"))
    for row, total, count in zip(blocks.tokens, scores.block_nll, scores.block_predictions, strict=True):
        expected = tiny_bench.model.network(input_ids=row[None], labels=row[None]).loss
        assert (total / count).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_kl_is_the_plain_one_on_each_block(tiny_bench, tiny_trial, blocks, sparse_scores):
    log_p = tiny_bench.model.network(input_ids=blocks.tokens).logits.double().log_softmax(-1)
    with sparsified(tiny_bench.model, tiny_trial.plan, {}):
        log_q = tiny_bench.model.network(input_ids=blocks.tokens).logits.double().log_softmax(-1)
    expected = (log_p.exp() * (log_p - log_q)).sum((1, 2))
    torch.testing.assert_close(sparse_scores.block_kl, expected, rtol=1e-4, atol=1e-5)


def test_blocks_and_documents_add_up_to_the_same(sparse_scores):
    assert sparse_scores.nll_nats == pytest.approx(sparse_scores.block_nll.sum().item() / (12 * 15))
    assert sparse_scores.kl_nats == pytest.approx(sparse_scores.block_kl.sum().item() / (12 * 16))
    assert sparse_scores.ppl == pytest.approx(math.exp(sparse_scores.nll_nats))
    for what in ("nll", "kl", "predictions", "positions"):
        by_block, by_document = (getattr(sparse_scores, f"{unit}_{what}").sum() for unit in ("block", "document"))
        torch.testing.assert_close(by_block, by_document)


def test_a_document_that_goes_on_in_the_next_block_has_the_tokens_of_both():
    documents = torch.tensor([[0, 0, 1, 1], [1, 3, 3, 3]])
    nll = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    kl = torch.tensor([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]])
    scores = scores_from_tokens(nll, kl, Blocks(documents, documents))
    assert scores.block_nll.tolist() == [7, 56]
    assert scores.block_kl.tolist() == [15, 240]
    assert scores.document_nll.tolist() == [1, 6, 0, 56]  # the tokens that are predicted, not those that predict
    assert scores.document_predictions.tolist() == [1, 2, 0, 3]
    assert scores.document_kl.tolist() == [3, 28, 0, 224]
    assert scores.document_positions.tolist() == [2, 3, 0, 3]


def test_sums_are_fp64():
    documents = torch.zeros(1, 3, dtype=torch.int64)
    scores = scores_from_tokens(
        torch.tensor([[2.0**24, 1.0]]), torch.tensor([[2.0**24, 1.0, 1.0]]), Blocks(documents, documents)
    )
    assert scores.block_nll.tolist() == scores.document_nll.tolist() == [2**24 + 1]
    assert scores.block_kl.tolist() == scores.document_kl.tolist() == [2**24 + 2]


def test_the_mean_of_runs_has_the_mean_of_their_scores_on_the_same_tokens(sparse_scores, blocks, tiny_bench):
    dense = dense_scores(tiny_bench.teacher("validation"), blocks)
    mean = mean_scores([sparse_scores, dense, dense])
    assert mean.kl_nats == pytest.approx(sparse_scores.kl_nats / 3)
    assert mean.nll_nats == pytest.approx((sparse_scores.nll_nats + 2 * dense.nll_nats) / 3)
    torch.testing.assert_close(mean.document_kl, sparse_scores.document_kl / 3)
    assert torch.equal(mean.block_predictions, dense.block_predictions)
    assert torch.equal(mean.document_positions, dense.document_positions)


def test_a_perplexity_out_of_range_is_infinite_and_not_an_error():
    documents = torch.zeros(1, 2, dtype=torch.int64)
    assert scores_from_tokens(torch.tensor([[1e4]]), torch.zeros(1, 2), Blocks(documents, documents)).ppl == math.inf


def test_the_scores_of_the_dense_model_come_from_its_teacher(tiny_bench, blocks):
    scores = dense_scores(tiny_bench.teacher("validation"), blocks)
    measured = score(tiny_bench.model, blocks, tiny_bench.teacher("validation"))
    torch.testing.assert_close(scores.block_nll, measured.block_nll, rtol=1e-6, atol=1e-5)
    assert scores.kl_nats == 0


@pytest.mark.parametrize(("chunk", "batch"), [(5, 8), (1000, 5)])
def test_neither_chunks_nor_batches_change_the_scores(tiny_bench, blocks, monkeypatch, chunk, batch):
    whole = score(tiny_bench.model, blocks, tiny_bench.teacher("validation"))
    monkeypatch.setitem(loss.CHUNK_TOKENS, "cpu", chunk)
    monkeypatch.setitem(model._INFERENCE_TOKENS, "cpu", batch * 16)
    parts = score(tiny_bench.model, blocks, tiny_bench.teacher("validation"))
    torch.testing.assert_close(parts.tensors(), whole.tensors(), rtol=1e-6, atol=1e-4)


def test_a_bf16_model_is_scored_from_fp32_logits(tiny_trial):
    bench = Workbench(tiny_trial.model.model_copy(update={"dtype": "bfloat16"}), tiny_trial.corpus, "cpu")
    blocks = bench.blocks("validation")
    logits = bench.model.hidden(blocks.tokens).double() @ bench.model.head.double().T
    expected = -logits.log_softmax(-1)[:, :-1].gather(2, blocks.tokens[:, 1:, None]).sum((1, 2))
    torch.testing.assert_close(
        score(bench.model, blocks, bench.teacher("validation")).block_nll, expected, rtol=1e-6, atol=0
    )


class Short(model.ResidentModel):
    """A model for which memory is short from some blocks on."""

    most = 4

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        if len(tokens) > self.most:
            raise torch.OutOfMemoryError("as if")
        return super().hidden(tokens)


def test_scoring_goes_on_with_halves_where_memory_is_short(tiny_bench, blocks):
    teacher, whole = tiny_bench.teacher("validation"), tiny_bench.model
    short = Short(whole.network, whole.shape, whole.fingerprint)
    torch.testing.assert_close(score(short, blocks, teacher).block_kl, score(whole, blocks, teacher).block_kl)


def test_a_block_that_does_not_fit_is_one_line(tiny_bench, blocks, monkeypatch):
    monkeypatch.setattr(Short, "most", 0)
    short = Short(tiny_bench.model.network, tiny_bench.model.shape, "short")
    with pytest.raises(SponError, match="scoring one block did not"):
        score(short, blocks, tiny_bench.teacher("validation"))
