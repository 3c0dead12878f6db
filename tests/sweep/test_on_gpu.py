"""Whole commands whose trials are on a GPU, through real Ray. These tests run where there is one: pytest -m gpu."""

import random
from pathlib import Path

import pytest
import torch
import yaml

from sweep.store.folder import SweepFolder
from tests.conftest import VOCABULARY
from tests.swept import Swept, run, write_space
from trainables.checkpoint import read_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]


def metrics_of(folder: SweepFolder) -> dict[str, dict[str, float]]:
    """Metrics of each trial, by allocation."""
    checkpoints = [read_checkpoint(trial.checkpoint_path) for trial in folder.trials]
    return {checkpoint.meta.config.allocation: checkpoint.meta.metrics for checkpoint in checkpoints}


@pytest.fixture(scope="module")
def on_gpu(swept: Swept, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """The sweep of the other tests, two trials on the GPU at a time."""
    directory = tmp_path_factory.mktemp("gpu")
    raw = yaml.safe_load(swept.space.read_text()) | {"resources": {"cpus_per_trial": 1, "gpus_per_trial": 0.5}}
    space, storage = write_space(raw, directory), directory / "runs"
    return Swept(space, storage, run("run", space, "--storage", storage, cold=True))


def test_a_sweep_on_a_gpu_scores_as_on_a_cpu(swept: Swept, on_gpu: Swept) -> None:
    assert on_gpu.ran.code == 0, on_gpu.ran.out + on_gpu.ran.err
    found, expected = metrics_of(on_gpu.folder), metrics_of(swept.folder)
    assert found.keys() == expected.keys()
    for allocation, metrics in expected.items():
        for name in ("val_kl_nats", "val_teal_kl_nats", "test_ppl"):
            assert found[allocation][name] == pytest.approx(metrics[name], rel=1e-2), (allocation, name)


def test_an_analysis_answers_every_question_on_a_gpu(on_gpu: Swept, prompts_file: Path) -> None:
    given = "interpret", "--sweep", "tiny", "--storage", on_gpu.storage, "--prompts", prompts_file
    ran = run(*given, module="analysis", cold=True)
    assert ran.code == 0, ran.out + ran.err


def test_find_writes_an_adapter_on_a_gpu(tiny_llama: Path, tmp_path: Path) -> None:
    draw = random.Random(1)
    for name in ("learn.txt", "test.txt"):
        lines = [" ".join(f"w{draw.randrange(VOCABULARY)}" for _ in range(60)) for _ in range(120)]
        (tmp_path / name).write_text("\n".join(lines))
    text = tmp_path / "learn.txt", tmp_path / "test.txt"
    out, storage = tmp_path / "adapter", tmp_path / "runs"
    ran = run("find", tiny_llama, "--sparsity", 0.6, "--out", out, "--text", *text, "--storage", storage, cold=True)
    assert ran.code == 0, ran.out + ran.err
    assert (out / "spon_config.json").is_file()
