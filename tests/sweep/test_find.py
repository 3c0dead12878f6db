"""``sweep find``: from a model and a sparsity to an adapter, through the same sweep as any other."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from search_spaces.config import SpaceConfig
from search_spaces.errors import SponError
from search_spaces.resolve import Fingerprints, resolve_grid
from search_spaces.trial import TrialConfig
from sweep import find
from sweep.find import space_to_find, within_budget
from sweep.plan import Cost
from sweep.store.folder import SweepFolder, create_sweep
from sweep.tune.levels import unmeasured
from tests.conftest import VOCABULARY
from tests.search_spaces.conftest import make_shape
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


@pytest.mark.slow
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

    assert "something is there" in run(*given).err
    again = run(*(tmp_path / "second" if word == out else word for word in given), cold=True)
    assert again.code == 0, again.err
    assert "measuring" not in again.out
    assert (tmp_path / "second" / "spon_config.json").read_text() == (out / "spon_config.json").read_text()


def test_one_text_for_both_is_refused(text: list[str]) -> None:
    with pytest.raises(SponError, match=r"to learn from and one to test on, but got .*learn\.txt alone \(at --text\)"):
        space_to_find("embedded", 0.5, text[:1])


def test_a_sparsity_that_cannot_be_is_refused() -> None:
    with pytest.raises(SponError, match=r"within plan.bounds, but got sparsity 0\.97"):
        space_to_find("embedded", 0.97, [])


@pytest.mark.parametrize("model", ["org/Some-Model", "/a/b/Some-Model"])
def test_the_name_tells_model_and_sparsity(model: str) -> None:
    assert space_to_find(model, 0.5, []).name == "find-Some-Model-s0.50"


# A budget


def budgeted(minutes: float, storage: Path, monkeypatch: pytest.MonkeyPatch, step: float = 1.0) -> SpaceConfig:
    """The space within a budget on a machine whose steps take so many seconds, and its passes a tenth a block."""
    space = space_to_find("embedded", 0.5, [])
    monkeypatch.setattr(find, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(find, "_rehearsed", lambda space: (Cost(step, 0.1, 0), trials_of_all(space)))
    return within_budget(space, minutes, storage)


class InThisProcess:
    """Stands for a pool of processes."""

    def __init__(self, *given: object) -> None:
        pass

    def __enter__(self) -> "InThisProcess":
        return self

    def __exit__(self, *fault: object) -> None:
        pass

    def submit(self, work: Callable[[SpaceConfig], object], space: SpaceConfig) -> SimpleNamespace:
        return SimpleNamespace(result=lambda: work(space))


def trials_of_all(space: SpaceConfig) -> list[TrialConfig]:
    shape, prints = make_shape(4), Fingerprints("m", "c")
    return [trial for one in unmeasured(space) for trial in resolve_grid(one, shape, prints)[0]]


def test_more_minutes_are_more_text_in_whole_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spaces = [budgeted(minutes, tmp_path, monkeypatch) for minutes in (5.0, 10.0)]
    less, more = (space.corpus.blocks for space in spaces)
    batch = spaces[0].training.batch_size
    assert 64 < less.calibration < more.calibration
    assert less.calibration % batch == more.calibration % batch == 0
    assert (less.validation, less.test) == (more.validation, more.test) == (24, 48)
    # a block costs a teacher's pass and its share of a step
    assert more.calibration - less.calibration == pytest.approx(5 * 60 / (0.1 + 1 / batch), abs=8)


def test_a_slow_machine_gets_less_text_and_a_budget_below_the_least_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, slow = (budgeted(8.0, tmp_path, monkeypatch, step).corpus.blocks.calibration for step in (1.0, 4.0))
    assert slow < fast
    with pytest.raises(SponError, match=r"at least \d+ min on this machine, but got 1 \(at --budget\)"):
        budgeted(1.0, tmp_path, monkeypatch)


def test_a_sweep_that_has_begun_goes_on_with_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = budgeted(5.0, tmp_path, monkeypatch)
    create_sweep(tmp_path, begun)
    assert budgeted(50.0, tmp_path, monkeypatch, step=9.0).corpus == begun.corpus
    other = space_to_find("embedded", 0.5, ["learn.txt", "test.txt"])
    kept = within_budget(other.model_copy(update={"name": begun.name}), 50.0, tmp_path).corpus
    assert (kept.source, kept.blocks.calibration) == ("files", begun.corpus.blocks.calibration)
