"""The few lines of Python, and the notebook that walks through them."""

from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from nbclient import NotebookClient

from search_spaces.errors import SponError
from search_spaces.sites import Site
from trainables.lab import Lab
from trainables.trial import run_trial

NOTEBOOK = Path(__file__).parents[2] / "docs" / "walkthrough.ipynb"


@pytest.fixture
def space(tiny_raw, tmp_path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny_raw))
    return file


def test_a_name_and_a_sparsity_make_the_trial_that_a_sweep_would_run(space, tiny_bench, tiny_trial):
    trained = Lab(space).train("UNIF-ALL", sparsity=0.6)
    expected = run_trial(tiny_bench, tiny_trial)
    assert trained.meta.config.identity == tiny_trial.identity
    assert all(torch.equal(bias, expected.biases[site]) for site, bias in trained.biases.items())


def test_a_mask_of_ones_own_and_overrides(space):
    lab = Lab(space, "training.epochs=1", "seeds=[7]")
    trained = lab.train({"name": "mine", "layers": [1], "modules": ["o_proj"]}, sparsity=0.5)
    assert list(trained.biases) == [Site(1, "o_proj")]
    config = trained.meta.config
    assert (config.allocation, config.sparsity, config.training.epochs, config.training.seed) == ("mine", 0.5, 1, 7)


def test_the_test_split_is_opened_for_what_was_chosen(space):
    lab = Lab(space, "training.max_steps=1")
    tested = lab.test(lab.train("UNIF-ALL", 0.5))
    assert tested.meta.metrics["test_ppl"] == tested.scores["test.spon"].ppl
    with pytest.raises(SponError, match="test split is for the final report only"):
        lab.bench.blocks("test")


def test_a_wrong_allocation_is_one_line_before_anything_is_loaded(space):
    lab = Lab(space)
    with pytest.raises(SponError, match=r"but got 'NOSUCH' \(at allocations\.0"):
        lab.train("NOSUCH", 0.5)
    assert "bench" not in vars(lab)


def test_the_notebook_runs(space):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    setting = next(cell for cell in notebook.cells if "SPACE =" in cell.source)
    setting.source += f"\nSPACE = {str(space)!r}"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": NOTEBOOK.parent}}).execute()
    printed = "".join(output.get("text", "") for output in notebook.cells[-3].outputs)
    assert "test_kl_nats" in printed
