import json
import pickle
from pathlib import Path

import pytest
import torch

from analysis.study.read import read_study
from search_spaces.errors import SponError
from search_spaces.sites import Site
from tests.analysis.study.fabricated import checkpoint, edit, vectors

PT = "spon_TOP-50_s0.50.pt"


class Code:
    """Pickles as a call."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def refused(directory: Path, match: str) -> None:
    with pytest.raises(SponError, match=match) as caught:
        read_study(directory)
    assert "\n" not in str(caught.value)


def test_everything_is_read(study_directory):
    study = read_study(study_directory)
    assert study.results.results["TOP-50_s0.5"].num_spon_layers == 8
    assert [entry.config_name for entry in study.pareto] == ["BASELINE-TEAL", "TOP-50", "UNIF-ALL", "ATTN-ONLY"]
    assert (study.analysed.name, study.other.name) == ("TOP-50_s0.50", "UNIF-ALL_s0.50")
    assert list(study.other.biases) == [Site(layer, "down_proj") for layer in range(16)]
    assert torch.equal(study.analysed.biases[Site(3, "down_proj")], vectors("TOP-50")["layer_3_down_proj"])


@pytest.mark.parametrize("name", ["results.json", "summary.csv", "pareto.json", "interpretability.json", PT])
def test_a_missing_file_is_named(study_directory, name):
    (study_directory / name).unlink()
    refused(study_directory, f"{name} is missing|{name}, but it is missing")


def test_a_directory_that_is_not_there(tmp_path):
    refused(tmp_path / "nosuch", "there is none")


@pytest.mark.parametrize("name", ["results.json", "pareto.json", "interpretability.json"])
def test_a_text_file_that_is_not_json(study_directory, name):
    (study_directory / name).write_text("{")
    refused(study_directory, f"Invalid JSON.*{name}")


@pytest.mark.parametrize(
    ("name", "path", "value", "match"),
    [
        ("results.json", ["config", "novel"], 1, "config.novel: Extra inputs"),
        ("results.json", ["config", "calibration_dataset"], "c4", "calibration_dataset"),
        ("results.json", ["config", "extra", "data_driven_overrides"], {"TOP-50": [1]}, "data_driven_overrides"),
        ("results.json", ["results", "TOP-50_s0.5", "loss"], "3.1", "TOP-50_s0.5.loss"),
        ("results.json", ["results", "TOP-50_s0.5", "loss"], float("nan"), "TOP-50_s0.5.loss"),
        ("results.json", ["results", "TOP-50_s0.5", "sparsity"], 0.6, "TOP-50_s0.5 is TOP-50 at 0.6"),
        ("results.json", ["results", "TOP-50_s0.5", "loss"], 3.0, "differs in TOP-50 at 0.5"),
        ("interpretability.json", ["bias_statistics", "bias"], {}, "layer_INDEX_MODULE, but got 'bias'"),
        ("interpretability.json", ["bias_statistics"], {}, "bias_statistics"),
        ("interpretability.json", ["hidden_state_shifts"], {}, "_aggregate"),
        ("interpretability.json", ["bias_norm_ranking"], [], "bias_norm_ranking does not"),
        ("interpretability.json", ["args", "spon_checkpoint"], "x/spon_TOP-75_s0.50.pt", "spon_TOP-75_s0.50.pt is mis"),
        ("interpretability.json", ["cross_config_comparison", "_aggregate", "config_b"], "other", "of .* and other"),
    ],
)
def test_a_file_of_another_form_says_where(study_directory, name, path, value, match):
    edit(study_directory / name, *path, value=value)
    refused(study_directory, match)


def test_a_table_without_a_run_is_refused(study_directory):
    file = study_directory / "summary.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    refused(study_directory, "3 rows for 4 results")


def test_a_table_with_a_longer_line_is_refused(study_directory):
    file = study_directory / "summary.csv"
    file.write_text(file.read_text().rstrip() + ",1\n")
    refused(study_directory, r"study's form.*summary.csv")


def test_a_pareto_set_of_other_runs_is_refused(study_directory):
    file = study_directory / "pareto.json"
    entries = json.loads(file.read_text())
    entries[1]["perplexity"] += 1
    file.write_text(json.dumps(entries))
    refused(study_directory, "TOP-50 at 0.5 is not")


def test_a_pickle_that_needs_code_is_refused_and_not_run(study_directory, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save(checkpoint("TOP-50") | {"extra": Code()}, study_directory / PT)
    refused(study_directory, "it holds something else")
    (study_directory / PT).write_bytes(pickle.dumps(Code(), protocol=2))
    refused(study_directory, "it holds something else")
    assert not Path("ran").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 no archive"])
def test_a_file_that_torch_did_not_write(study_directory, content):
    (study_directory / PT).write_bytes(content)
    refused(study_directory, "whole and of torch's form")


def test_a_torn_file(study_directory):
    whole = (study_directory / PT).read_bytes()
    (study_directory / PT).write_bytes(whole[: len(whole) // 2])
    refused(study_directory, "whole and of torch's form")


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ([1, 2], "a mapping with biases"),
        ({"weights": {}}, "a mapping with biases"),
        (checkpoint("TOP-50") | {"novel": 1}, "novel: Extra"),
        (checkpoint("TOP-50") | {"run_id": "run_2"}, "TOP-50_s0.50 of run_2"),
        (checkpoint("TOP-50") | {"sparsity": 0.6}, "TOP-50_s0.60 of run_1"),
        (checkpoint("TOP-50") | {"biases": vectors("UNIF-ALL")}, "layer_mask and modules"),
        (checkpoint("TOP-50") | {"biases": {}}, "sites"),
        (checkpoint("TOP-50") | {"biases": {"bias": torch.randn(4)}}, "layer_INDEX_MODULE"),
    ],
)
def test_a_checkpoint_of_another_form(study_directory, raw, match):
    torch.save(raw, study_directory / PT)
    refused(study_directory, match)


@pytest.mark.parametrize(
    "vector",
    [torch.ones(4), torch.randn(2, 2), torch.randn(4).half(), torch.tensor([1.0, float("inf")]), torch.empty(0), [1.0]],
)
def test_a_bias_that_is_no_vector_of_finite_fp32(study_directory, vector):
    biases = vectors("TOP-50") | {"layer_2_down_proj": vector}
    torch.save(checkpoint("TOP-50") | {"biases": biases}, study_directory / PT)
    refused(study_directory, "finite fp32 vectors")
