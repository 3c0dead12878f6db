"""Teacher statistics: the plain softmax formulas, of the dense model only, computed once."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.trainables.conftest import elsewhere
from trainables import loss, teacher
from trainables.evaluation import score
from trainables.loss import linear_kl
from trainables.model import resident as model
from trainables.sparse import sparsified
from trainables.teacher import Teacher, teacher_of
from trainables.workbench import Workbench


@pytest.fixture
def bench(tiny_bench: Workbench, spon_cache: object) -> Workbench:
    return tiny_bench


def ask(bench: Workbench, temperature: float = 1.0) -> Teacher:
    return teacher_of(bench.model, bench.blocks("validation").tokens, "validation", temperature)


def logits_of(bench: Workbench) -> Tensor:
    logits: Tensor = bench.model.network(input_ids=bench.blocks("validation").tokens).logits.double()
    return logits


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_statistics_are_the_plain_ones(bench, temperature):
    stats, logits, tokens = ask(bench, temperature), logits_of(bench), bench.blocks("validation").tokens
    log_p = (logits / temperature).log_softmax(-1)
    torch.testing.assert_close(stats.mean_row.double(), log_p.exp() @ bench.model.head.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stats.entropy.double(), -(log_p.exp() * log_p).sum(-1), rtol=1e-5, atol=1e-5)
    nll = -logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None]).squeeze(2)  # at temperature 1
    torch.testing.assert_close(stats.nll.double(), nll, rtol=1e-5, atol=1e-5)


def test_the_dense_model_has_no_kl_to_its_own_teacher(bench):
    stats, blocks = ask(bench), bench.blocks("validation")
    assert abs(score(bench.model, blocks, stats).kl_nats) < 1e-6
    hidden = bench.model.hidden(blocks.tokens).flatten(0, 1)
    kl = linear_kl(hidden, bench.model.head, stats.mean_row.flatten(0, 1), stats.entropy.flatten())
    assert abs(kl.item()) < 1e-6


def test_a_sparse_model_is_not_taken_for_the_dense_one(bench, tiny_trial):
    with (
        sparsified(bench.model, tiny_trial.plan, {}),
        pytest.raises(RuntimeError, match="the model must be dense here"),
    ):
        ask(bench)


def test_statistics_are_computed_once_and_kept_on_disk(bench, monkeypatch):
    first = ask(bench)
    monkeypatch.setattr(teacher, "_statistics", lambda *args: pytest.fail("computed again"))
    again = ask(bench)
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in ("mean_row", "entropy", "nll"))


@pytest.mark.parametrize(
    "other",
    [
        lambda b: teacher_of(b.model, b.blocks("validation").tokens, "validation", 2.0),
        lambda b: teacher_of(b.model, b.blocks("calibration").tokens, "validation"),
        lambda b: teacher_of(b.model, b.blocks("validation").tokens.view(-1, 8), "validation"),
        lambda b: teacher_of(replace(b.model, fingerprint="other"), b.blocks("validation").tokens, "validation"),
        lambda b: teacher_of(elsewhere(b.model), b.blocks("validation").tokens, "validation"),
    ],
    ids=["temperature", "text", "block size", "model", "device"],
)
def test_another_question_has_statistics_of_its_own(bench, monkeypatch, other):
    ask(bench)
    monkeypatch.setitem(model._INFERENCE_TOKENS, "meta", 64)
    monkeypatch.setattr(teacher, "_statistics", lambda *args: pytest.fail("asked"))
    with pytest.raises(pytest.fail.Exception, match="asked"):
        other(bench)


def test_a_bf16_model_has_statistics_in_fp32(tiny_trial, spon_cache):
    stats = ask(Workbench(tiny_trial.model.model_copy(update={"dtype": "bfloat16"}), tiny_trial.corpus, "cpu"))
    assert {stats.mean_row.dtype, stats.entropy.dtype, stats.nll.dtype} == {torch.float32}


@pytest.mark.parametrize(("chunk", "batch"), [(5, 8), (7, 5), (1000, 1)])
def test_neither_chunks_nor_batches_change_the_statistics(bench, monkeypatch, tmp_path, chunk, batch):
    whole = ask(bench)
    monkeypatch.setitem(loss.CHUNK_TOKENS, "cpu", chunk)
    monkeypatch.setitem(model._INFERENCE_TOKENS, "cpu", batch * 16)
    monkeypatch.setenv("SPON_CACHE", str(tmp_path))
    parts = ask(bench)
    for name in ("mean_row", "entropy", "nll"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-5)
