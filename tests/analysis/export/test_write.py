"""The directory of an export: what is in it, and what is refused."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analysis.cli import main
from analysis.export import load
from analysis.export.load import load_spon, read_spec
from analysis.export.write import export
from search_spaces.errors import SponError
from search_spaces.sites import Site
from tests.analysis.export.conftest import TOKENS, Exportable

MakeExport = Callable[..., Exportable]


@pytest.mark.parametrize("there", [False, True])
def test_an_adapter_is_five_files_in_a_new_or_empty_directory_that_others_can_read(there, make_export, tmp_path):
    if there:
        (tmp_path / "new" / "adapter").mkdir(parents=True)
    export(make_export(rule="topk").place, tmp_path / "new" / "adapter")
    assert {site.threshold for site in read_spec(tmp_path / "new" / "adapter").sites.values()} == {None}
    files = sorted((tmp_path / "new" / "adapter").iterdir())
    assert [file.name for file in files] == ["README.md", "spon.c", "spon.py", "spon.safetensors", "spon_config.json"]
    assert all(file.stat().st_mode & stat.S_IROTH for file in files)
    assert (tmp_path / "new" / "adapter" / "spon.py").read_text() == Path(load.__file__).read_text()


def test_the_config_says_what_the_trial_was(make_export, tmp_path):
    trial = make_export(modules=("down_proj",), sparsity=0.6, tokens="second_half")
    export(trial.place, tmp_path / "adapter")
    spec, meta = read_spec(tmp_path / "adapter"), trial.checkpoint.meta
    assert (spec.rule, spec.tokens, spec.absorbed) == ("threshold", "second_half", False)
    assert spec.base_model["fingerprint"] == meta.config.model_fingerprint
    assert spec.trial["identity"] == meta.config.identity
    assert list(spec.sites) == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    site = spec.sites["model.layers.1.mlp.down_proj"]
    assert (site.in_features, site.out_features, site.sparsity, site.bias) == (48, 32, 0.6, True)
    assert site.threshold == meta.thresholds["1.down_proj"]


def test_input_vectors_are_exported_as_the_biases_that_they_make(make_export, tmp_path):
    trial = make_export(form="input_vector")
    export(trial.place, tmp_path / "adapter")
    assert read_spec(tmp_path / "adapter").trained_form == "input_vector"
    assert read_spec(tmp_path / "adapter").form == "output_bias"
    found, model = load_file(tmp_path / "adapter" / "spon.safetensors"), trial.base()
    site = Site(1, "down_proj")
    expected = model.model.layers[1].mlp.down_proj.weight @ trial.checkpoint.biases[site]
    torch.testing.assert_close(found["model.layers.1.mlp.down_proj"], expected)
    with load_spon(model, tmp_path / "adapter"), torch.no_grad():
        torch.testing.assert_close(model(TOKENS).logits, trial.logits(), rtol=0, atol=1e-5)


def test_a_local_path_does_not_travel(make_export, tmp_path):
    trial = make_export()
    export(trial.place, tmp_path / "adapter")
    folder = Path(trial.bench.materials.model.location)
    assert read_spec(tmp_path / "adapter").base_model["source"] == folder.name
    for name in ("spon_config.json", "README.md"):
        assert str(folder.parent) not in (tmp_path / "adapter" / name).read_text()


def test_what_is_there_is_not_overwritten(make_export, tmp_path):
    trial, notes = make_export(), tmp_path / "mine" / "notes"
    notes.parent.mkdir()
    notes.write_text("mine")
    for place in (notes, notes.parent):
        with pytest.raises(SponError, match="new or an empty directory"):
            export(trial.place, place)
    assert notes.read_text() == "mine"


def test_teal_alone_has_nothing_to_export(make_export, tmp_path, capsys):
    trial = make_export(allocation="BASELINE-TEAL")
    assert main(["export", str(trial.place), str(tmp_path / "adapter")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: an export must have biases, but BASELINE-TEAL_s0.50")
    assert not (tmp_path / "adapter").exists()


def test_the_model_must_be_that_of_the_trial(make_export, tmp_path):
    trial = make_export()
    raw = json.loads((trial.place / "meta.json").read_text())
    raw["config"]["model_fingerprint"] = "another"
    (trial.place / "meta.json").write_text(json.dumps(raw))
    with pytest.raises(SponError, match="but it is of another"):
        export(trial.place, tmp_path / "adapter")


def test_a_place_that_cannot_be_written_is_one_line(make_export, tmp_path):
    trial = make_export()
    (tmp_path / "file").write_text("")
    with pytest.raises(SponError, match="an export must be writable"):
        export(trial.place, tmp_path / "file" / "adapter")


def test_the_command_exports(make_export, tmp_path, capsys):
    trial = make_export()
    assert main(["export", str(trial.place), str(tmp_path / "adapter")]) == 0
    assert main(["export", str(trial.place), str(tmp_path / "whole"), "--absorb"]) == 0
    assert str(tmp_path / "whole") in capsys.readouterr().out
    assert (tmp_path / "adapter" / "spon.safetensors").is_file()
    assert not (tmp_path / "whole" / "spon.safetensors").exists()
    assert (tmp_path / "whole" / "model.safetensors").is_file()
