"""Checkpoints: what is written is read, and anything else is refused in one line."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from search_spaces import __version__
from search_spaces.errors import SponError
from search_spaces.sites import Site
from tests.conftest import trials_of
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


def edit_meta(directory: Path, change: Callable[[dict[str, object]], object]) -> None:
    meta = json.loads((directory / META).read_text())
    change(meta)
    (directory / META).write_text(json.dumps(meta))


def edit_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


def test_what_is_written_is_read(finished, written):
    read = read_checkpoint(written)
    assert read.meta == finished.meta
    assert list(read.biases) == list(finished.biases)
    assert all(torch.equal(read.biases[site], vector) for site, vector in finished.biases.items())
    assert read.scores.keys() == finished.scores.keys()
    for who, scores in finished.scores.items():
        assert all(torch.equal(tensor, read.scores[who].tensors()[name]) for name, tensor in scores.tensors().items())


def test_a_checkpoint_is_three_files(written):
    assert {path.name for path in written.iterdir()} == {META, BIASES, SCORES}


def test_vectors_are_keyed_by_the_path_of_their_module_in_the_model(finished, written):
    vectors = load_file(written / BIASES)
    assert torch.equal(vectors["model.layers.1.mlp.down_proj"], finished.biases[Site(1, "down_proj")])
    assert {vector.dtype for vector in vectors.values()} == {torch.float32}


def test_a_checkpoint_without_biases_is_written_and_read(finished, tmp_path):
    config = finished.meta.config.model_copy(update={"sites": ()})
    meta = finished.meta.model_copy(update={"config": config, "paths": {}})
    write_checkpoint(Checkpoint(meta, {}, finished.scores), tmp_path)
    assert read_checkpoint(tmp_path).biases == {}


def test_scores_that_share_memory_can_be_written(finished, tmp_path):
    same = finished.scores["validation.teal"]
    write_scores({"validation.teal": same, "validation.spon": same}, tmp_path / SCORES)
    assert read_scores(tmp_path / SCORES)["validation.spon"].kl_nats == same.kl_nats


@pytest.mark.parametrize("name", [META, BIASES, SCORES])
def test_a_missing_file_is_named(written, name):
    (written / name).unlink()
    assert f"but {name} is missing (at {written})" in refused(lambda: read_checkpoint(written))


def test_a_directory_that_is_not_there_is_one_line(tmp_path):
    assert "meta.json is missing" in refused(lambda: read_checkpoint(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", [BIASES, SCORES])
def test_a_truncated_file_is_one_line(written, name):
    (written / name).write_bytes((written / name).read_bytes()[:-10])
    assert "a checkpoint's tensors must be whole" in refused(lambda: read_checkpoint(written))


@pytest.mark.parametrize("name", [BIASES, SCORES])
def test_a_file_of_another_kind_is_one_line(written, name):
    (written / name).write_bytes(b"these are no tensors at all")
    assert "a checkpoint's tensors must be whole" in refused(lambda: read_checkpoint(written))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b""])
def test_a_meta_that_is_no_json_is_one_line(written, content):
    (written / META).write_bytes(content)
    assert "meta.json must be JSON" in refused(lambda: read_checkpoint(written))


@pytest.mark.parametrize("content", ["[]", "{}", '"text"', '{"model_type": "llama"}'])
def test_a_foreign_meta_is_one_line(written, content):
    (written / META).write_text(content)
    assert "must have a schema_version" in refused(lambda: read_checkpoint(written))


def test_another_schema_version_is_named_whatever_else_differs(written):
    edit_meta(written, lambda meta: meta.update(schema_version=2, new_key=1))
    assert "a checkpoint must have schema version 1, but got 2" in refused(lambda: read_checkpoint(written))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda meta: meta.pop("paths"), "paths: Field required"),
        (lambda meta: meta.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda meta: meta["config"]["training"].update(form="mse"), "config.training.form: Input should be"),
        (lambda meta: meta["metrics"].update(val_kl_nats="low"), "metrics.val_kl_nats: Input should be a valid number"),
    ],
)
def test_a_meta_that_does_not_fit_the_schema_names_the_field(written, change, said):
    edit_meta(written, change)
    assert said in refused(lambda: read_checkpoint(written))


@pytest.mark.parametrize(
    "change",
    [
        lambda vectors: vectors.update({"model.layers.7.mlp.down_proj": torch.zeros(32)}),
        lambda vectors: vectors.pop("model.layers.1.mlp.down_proj"),
        lambda vectors: vectors.update({"0.down_proj": vectors.pop("model.layers.0.mlp.down_proj")}),
    ],
    ids=["more", "less", "renamed"],
)
def test_vectors_that_the_meta_does_not_name_exactly_are_refused(written, change):
    edit_tensors(written / BIASES, change)
    assert "must hold exactly the biases of its meta.json" in refused(lambda: read_checkpoint(written))


def test_paths_of_other_sites_than_the_trial_has_are_refused(written):
    edit_meta(written, lambda meta: meta["config"].update(sites=["0.down_proj"]))
    assert "must hold exactly the biases of its meta.json" in refused(lambda: read_checkpoint(written))


@pytest.mark.parametrize(
    "change",
    [
        lambda scores: scores.pop("validation.spon/block_nll"),
        lambda scores: scores.update({"validation.spon/more": torch.zeros(1)}),
        lambda scores: scores.update({"nameless": torch.zeros(1)}),
    ],
    ids=["less", "more", "foreign"],
)
def test_scores_of_another_layout_are_refused(written, change):
    edit_tensors(written / SCORES, change)
    assert "a checkpoint's tensors must be whole" in refused(lambda: read_checkpoint(written))


def test_a_checkpoint_fits_the_model_that_it_was_made_on(finished, tiny_bench):
    check_fits(finished, tiny_bench.model.shape, tiny_bench.model.fingerprint)


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
