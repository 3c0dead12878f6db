"""Checkpoints: what is written is read, and anything else is refused in one line."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from search_spaces import __version__
from search_spaces.errors import SponError
from search_spaces.sites import Site
from tests.conftest import edited, trials_of
from trainables import checkpoint as module
from trainables.checkpoint import (
    BIASES,
    META,
    SCORES,
    Checkpoint,
    check_fits,
    code_commit,
    library_versions,
    read_checkpoint,
    read_scores,
    write_checkpoint,
    write_scores,
)
from trainables.trial import run_trial
from trainables.workbench import Workbench


@pytest.fixture(scope="module")
def finished(tiny_space: dict[str, object]) -> Checkpoint:
    trial = trials_of(tiny_space)[0]
    return run_trial(Workbench(trial.model, trial.corpus, "cpu"), trial)


@pytest.fixture
def written(finished: Checkpoint, tmp_path: Path) -> Path:
    write_checkpoint(finished, tmp_path)
    return tmp_path


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(SponError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_written_is_read(finished, written):
    assert {path.name for path in written.iterdir()} == {META, BIASES, SCORES}
    by_path = load_file(written / BIASES)
    assert torch.equal(by_path["model.layers.1.mlp.down_proj"], finished.biases[Site(1, "down_proj")])
    assert {vector.dtype for vector in by_path.values()} == {torch.float32}
    read = read_checkpoint(written)
    assert read.meta == finished.meta
    assert list(read.biases) == list(finished.biases)
    assert all(torch.equal(read.biases[site], vector) for site, vector in finished.biases.items())
    assert read.scores.keys() == finished.scores.keys()
    for who, scores in finished.scores.items():
        assert all(torch.equal(tensor, read.scores[who].tensors()[name]) for name, tensor in scores.tensors().items())


def test_a_checkpoint_without_biases_is_written_and_read(finished, tmp_path):
    config = finished.meta.config.model_copy(update={"sites": ()})
    meta = finished.meta.model_copy(update={"config": config, "paths": {}})
    write_checkpoint(Checkpoint(meta, {}, finished.scores), tmp_path)
    assert read_checkpoint(tmp_path).biases == {}


def test_scores_that_share_memory_can_be_written(finished, tmp_path):
    same = finished.scores["validation.teal"]
    write_scores({"validation.teal": same, "validation.spon": same}, tmp_path / SCORES)
    assert read_scores(tmp_path / SCORES)["validation.spon"].kl_nats == same.kl_nats


def meta(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A change of the values in ``meta.json``."""
    return edited(META, change)


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """A change of the tensors in a file."""

    def edit(directory: Path) -> None:
        values = {key: tensor.clone() for key, tensor in load_file(directory / name).items()}
        change(values)
        save_file(values, directory / name)

    return edit


def content(name: str, data: bytes) -> Callable[[Path], int]:
    return lambda directory: (directory / name).write_bytes(data)


FIRST = "model.layers.0.mlp.down_proj"
NOT_THE_BIASES, NOT_WHOLE = "must hold exactly the biases of its meta.json", "a checkpoint's tensors must be whole"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        *((lambda d, name=name: (d / name).unlink(), f"but {name} is missing (at ") for name in (META, BIASES, SCORES)),
        *((content(META, said), "meta.json must be JSON") for said in (b"{", b"\xff\xfe\x00", b"")),
        *((content(META, said), "must have a schema_version") for said in (b"[]", b"{}", b'{"model_type": "llama"}')),
        (meta(lambda m: m.update(schema_version=2, new=1)), "a checkpoint must have schema version 1, but got 2"),
        (meta(lambda m: m.pop("paths")), "paths: Field required"),
        (meta(lambda m: m.update(extra=1)), "extra: Extra inputs are not permitted"),
        (meta(lambda m: m["config"]["training"].update(form="mse")), "config.training.form: Input should be"),
        (meta(lambda m: m["config"].update(sites=["0.down_proj"])), NOT_THE_BIASES),
        (tensors(BIASES, lambda t: t.update({FIRST.replace("0", "7"): torch.zeros(32)})), NOT_THE_BIASES),
        (tensors(BIASES, lambda t: t.pop(FIRST)), NOT_THE_BIASES),
        (tensors(BIASES, lambda t: t.update({"0.down_proj": t.pop(FIRST)})), NOT_THE_BIASES),
        (tensors(SCORES, lambda t: t.pop("validation.spon/block_nll")), NOT_WHOLE),
        (tensors(SCORES, lambda t: t.update({"validation.spon/more": torch.zeros(1)})), NOT_WHOLE),
        (tensors(SCORES, lambda t: t.update({"nameless": torch.zeros(1)})), NOT_WHOLE),
        *((content(name, b"these are no tensors at all"), NOT_WHOLE) for name in (BIASES, SCORES)),
    ],
)
def test_a_spoilt_checkpoint_is_one_line(written, spoil, said):
    spoil(written)
    assert said in refused(lambda: read_checkpoint(written))


def test_a_checkpoint_of_another_model_is_refused_by_fingerprint(finished, tiny_bench):
    line = refused(lambda: check_fits(finished, tiny_bench.model.shape, "other@1"))
    assert f"a checkpoint must be of this model, other@1, but it is of {tiny_bench.model.fingerprint}" in line


@pytest.mark.parametrize("vectors", [{Site(0, "down_proj"): torch.zeros(48)}, {Site(5, "down_proj"): torch.zeros(32)}])
def test_a_vector_that_does_not_fit_its_site_is_refused(finished, tiny_bench, vectors):
    other = Checkpoint(finished.meta, vectors, finished.scores)
    shape, fingerprint = tiny_bench.model.shape, tiny_bench.model.fingerprint
    assert "a bias must fit its site" in refused(lambda: check_fits(other, shape, fingerprint))


def test_the_width_of_an_input_vector_is_that_of_the_input(finished, tiny_bench):
    training = finished.meta.config.training.model_copy(update={"form": "input_vector"})
    meta = finished.meta.model_copy(update={"config": finished.meta.config.model_copy(update={"training": training})})
    shape, fingerprint = tiny_bench.model.shape, tiny_bench.model.fingerprint
    check_fits(finished, shape, fingerprint)
    check_fits(Checkpoint(meta, {Site(0, "down_proj"): torch.zeros(48)}, {}), shape, fingerprint)
    assert "for width 48" in refused(lambda: check_fits(Checkpoint(meta, finished.biases, {}), shape, fingerprint))


def test_versions_are_those_of_what_is_installed(monkeypatch):
    monkeypatch.setattr(module, "_LIBRARIES", ("torch", "a_library_that_nobody_has"))
    assert library_versions() == {"spon-sweep": __version__, "torch": torch.__version__}


def test_outside_a_checkout_there_is_no_commit(monkeypatch):
    def git(*args: object, **kwargs: object) -> None:
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", git)
    assert code_commit() is None
