"""Text in blocks and windows against scores by hand, and what cannot be scored."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from analysis.evaluation.resident import MODES, Resident
from analysis.evaluation.text import Cut, cut_text, cuts_of, own_split, read_texts, score_text
from search_spaces.errors import SponError
from tests.conftest import VOCABULARY

BOS = 62
BLOCKS, LONG = Cut(16, 16, add_bos=False), Cut(48, 32, add_bos=False)


@pytest.fixture(scope="module")
def words() -> str:
    draw = random.Random(3)
    return " ".join(f"w{draw.randrange(VOCABULARY - 2)}" for _ in range(48 + 2 * 32 + 5))


def ids(words: str) -> Tensor:
    return torch.tensor([int(word[1:]) for word in words.split()])


def by_hand(resident: Resident, mode: str, tokens: Tensor, new: int) -> tuple[float, float]:
    """Mean NLL and KL of the last tokens of one window, from whole logits."""
    with torch.no_grad():
        dense = resident.model.network(tokens[None]).logits[0].double().log_softmax(-1)
        with resident.mode(mode):
            logits = resident.model.network(tokens[None]).logits[0].double().log_softmax(-1)
    first = max(len(tokens) - new, 1)  # nothing predicts the first token of a window
    nll = F.nll_loss(logits[first - 1 : -1], tokens[first:])
    return nll.item(), F.kl_div(logits[-new:], dense[-new:], log_target=True, reduction="batchmean").item()


@pytest.mark.parametrize("policy", ["all", "second_half"])
@pytest.mark.parametrize("add_bos", [False, True])
def test_blocks_and_windows_score_as_by_hand(policy, add_bos, resident_of, words):
    resident, stream = resident_of(policy), ids(words)
    blocks, long = (replace(cut, add_bos=add_bos) for cut in (BLOCKS, LONG))
    windows = cut_text(resident, "t", words, long, 9)
    assert windows.tolist() == [stream[i : i + 48].tolist() for i in (0, 32, 64)]
    found = dict(zip(("blocks", "long"), score_text(resident, "t", windows, (blocks, long)), strict=True))
    bos = torch.tensor([BOS] * add_bos, dtype=torch.int64)
    for unit, start in enumerate((0, 32, 64)):
        long_tokens = torch.cat((bos, stream[start : start + 48]))
        halves = [torch.cat((bos, stream[i : i + 16])) for i in (start + 16, start + 32)]
        for mode in MODES:
            nll, kl = by_hand(resident, mode, long_tokens, 32)
            assert getattr(found["long"], f"{mode}_nll")[unit] == pytest.approx(nll, rel=1e-4)
            pairs = torch.tensor([by_hand(resident, mode, half, 16) for half in halves]).mean(dim=0)
            assert getattr(found["blocks"], f"{mode}_nll")[unit] == pytest.approx(pairs[0].item(), rel=1e-4)
            if mode != "dense":
                assert getattr(found["long"], f"{mode}_kl")[unit] == pytest.approx(kl, rel=1e-3)
                assert getattr(found["blocks"], f"{mode}_kl")[unit] == pytest.approx(pairs[1].item(), rel=1e-3)
    assert (found["long"].tokens, found["blocks"].tokens) == (32, 32)
    bos_said = " bos" if add_bos else ""
    assert (found["long"].cut, found["blocks"].cut) == (f"48/32{bos_said}", f"16{bos_said}")
    resident.model.check_dense()


def test_windows_are_taken_at_even_distances(resident_of, words):
    taken = cut_text(resident_of(), "t", words, BLOCKS, 2)  # of 7
    stream = ids(words)
    assert taken.tolist() == [stream[i : i + 16].tolist() for i in (0, 48)]


def test_the_trials_own_figures_are_those_of_its_checkpoint(resident_of):
    checkpoint = resident_of().checkpoint
    own, metrics = own_split(checkpoint), checkpoint.meta.metrics
    assert own.text == "its own validation split"
    assert sum(own.spon_kl) / len(own.spon_kl) == pytest.approx(metrics["val_kl_nats"])
    assert sum(own.spon_nll) / len(own.spon_nll) == pytest.approx(metrics["val_nll_nats"])
    tested = {f"test.{who}": checkpoint.scores[f"validation.{who}"] for who in MODES}
    assert own_split(replace(checkpoint, scores={**checkpoint.scores, **tested})).text == "its own test split"


def test_blocks_come_first_and_windows_beside_them(resident_of):
    config = resident_of().config
    assert cuts_of(config, None, None, False) == (BLOCKS,)
    assert cuts_of(config, 48, 32, False) == (BLOCKS, LONG)
    assert cuts_of(config, 48, None, True) == (Cut(16, 16, True), Cut(48, 48, True))


@pytest.mark.parametrize(("window", "stride"), [(48, 24), (32, 48), (None, 32), (8, None)])
def test_strides_that_are_no_blocks_are_refused(window, stride, resident_of):
    with pytest.raises(SponError, match="multiple of the 16 tokens"):
        cuts_of(resident_of().config, window, stride, False)


def test_a_window_must_fit_into_the_model(resident_of, words):
    resident = resident_of()
    assert len(cut_text(resident, "t", words, Cut(64, 16, False), 2))
    for cut in (Cut(80, 16, False), Cut(64, 16, True)):
        with pytest.raises(SponError, match="the model's 64 tokens, but got"):
            cut_text(resident, "t", words, cut, 2)


def test_a_text_must_have_two_windows(resident_of):
    resident = resident_of()
    assert len(cut_text(resident, "t", "w5 " * 32, BLOCKS, 9)) == 2
    with pytest.raises(SponError, match="32 tokens, but t has 31"):
        cut_text(resident, "t", "w5 " * 31, BLOCKS, 9)


def test_a_directory_is_its_files_in_order(tmp_path):
    for name, text in (("b.py", "two"), ("a.py", "one"), (".hidden", "no")):
        (tmp_path / name).write_text(text)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.py").write_text("no")
    assert read_texts([tmp_path, tmp_path / "b.py"]) == {tmp_path.name: "one\ntwo", "b.py": "two"}


def test_texts_that_cannot_be_read_are_one_line(tmp_path):
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty").write_text(" \n")
    for name, reason in (("latin", "UTF-8"), ("gone", "No such file"), ("empty", "must not be empty")):
        with pytest.raises(SponError, match=reason):
            read_texts([tmp_path / name])
    (tmp_path / "text").write_text("w1")
    with pytest.raises(SponError, match="'text' twice"):
        read_texts([tmp_path / "text", tmp_path / "text"])
