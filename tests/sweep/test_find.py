"""``sweep find``: from a model and a sparsity to an adapter, through the same sweep as any other."""

import json
import random
from pathlib import Path

import pytest

from search_spaces.errors import SponError
from sweep.find import space_to_find
from sweep.folder import SweepFolder
from tests.conftest import VOCABULARY
from tests.swept import run


@pytest.fixture
def text(tmp_path: Path) -> list[str]:
    draw = random.Random(1)
    files = []
    for name in ("learn.txt", "test.txt"):
        lines = [" ".join(f"w{draw.randrange(VOCABULARY)}" for _ in range(60)) for _ in range(120)]
        (tmp_path / name).write_text("\n".join(lines))
        files.append(str(tmp_path / name))
    return files


@pytest.mark.ray
def test_it_writes_an_adapter_at_fisher_levels_and_goes_on(tiny_llama: Path, text: list[str], tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    given = ("find", tiny_llama, "--sparsity", 0.6, "--out", out, "--text", *text, "--storage", tmp_path / "runs")
    ran = run(*given)
    assert ran.code == 0, ran.out + ran.err
    folder = SweepFolder(tmp_path / "runs" / "find-tiny-s0.60")
    labels = sorted((trial.config.level_method, trial.config.allocation) for trial in folder.trials)
    assert labels == [("fisher", "ALL-SITES"), ("fisher", "BASELINE-TEAL"), ("uniform", "BASELINE-TEAL")]
    spec = json.loads((out / "spon_config.json").read_text())
    assert len({site["sparsity"] for site in spec["sites"].values()}) > 3
    assert "weights skipped" in ran.out
    assert str(out) in ran.out

    assert "there is something" in run(*given).err
    again = run(*(tmp_path / "second" if word == out else word for word in given))
    assert again.code == 0, again.err
    assert "measuring" not in again.out
    assert (tmp_path / "second" / "spon_config.json").read_text() == (out / "spon_config.json").read_text()


def test_one_text_for_both_is_refused(text: list[str]) -> None:
    with pytest.raises(SponError, match=r"to learn from and one to test on, but got .*learn\.txt alone \(at --text\)"):
        space_to_find("embedded", 0.5, text[:1])


def test_a_sparsity_that_cannot_be_is_refused() -> None:
    with pytest.raises(SponError, match=r"within their bounds, but got sparsity 0\.97"):
        space_to_find("embedded", 0.97, [])


@pytest.mark.parametrize("model", ["org/Some-Model", "/a/b/Some-Model"])
def test_the_name_tells_model_and_sparsity(model: str) -> None:
    assert space_to_find(model, 0.5, []).name == "find-Some-Model-s0.50"
