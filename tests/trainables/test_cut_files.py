"""Files that end at any byte, as after a crash, are seen for what they are."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.errors import SponError
from tests.conftest import trials_of
from trainables.checkpoint import BIASES, META, SCORES, read_checkpoint, write_checkpoint
from trainables.ray_trainable import _loaded
from trainables.trial import Trial
from trainables.workbench import Workbench

few = settings(max_examples=40, deadline=None, database=None)


@pytest.fixture(scope="module")
def kept(tiny_space: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> tuple[Trial, Path]:
    """A trial that was never begun, and a folder with the state and the checkpoint of one that is done."""
    config = trials_of(tiny_space)[0]
    bench, folder = Workbench(config.model, config.corpus, "cpu"), tmp_path_factory.mktemp("kept")
    trial = Trial(bench, config)
    while not trial.done:
        trial.advance()
    trial.save(folder)
    write_checkpoint(trial.finish(), folder)
    return Trial(bench, config), folder


def cut(folder: Path, name: str, share: float) -> Path:
    """A copy in which one file ends before its last byte."""
    place = folder.with_name("cut")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    whole = (place / name).read_bytes()
    (place / name).write_bytes(whole[: int(share * len(whole))])
    return place


ENDS = st.floats(0, 1, exclude_max=True)


@few
@given(name=st.sampled_from(["history.json", "kept.safetensors", "training.safetensors"]), share=ENDS)
def test_a_state_that_ends_early_is_never_taken_up(kept: tuple[Trial, Path], name: str, share: float) -> None:
    trial, folder = kept
    assert _loaded(trial, folder)
    assert not _loaded(trial, cut(folder, name, share))


@few
@given(name=st.sampled_from([META, BIASES, SCORES]), share=ENDS)
def test_a_checkpoint_that_ends_early_is_one_line(kept: tuple[Trial, Path], name: str, share: float) -> None:
    _, folder = kept
    with pytest.raises(SponError) as caught:
        read_checkpoint(cut(folder, name, share))
    assert "\n" not in str(caught.value)
