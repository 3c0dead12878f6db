"""``find``: levels, biases at all sites, a test report and an adapter, in one command.

It runs an ordinary sweep, with a folder, MLflow runs and a frontier. Repeat the command to resume it.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from search_spaces.allocations import BASELINE
from search_spaces.config import EMBEDDED, SpaceConfig
from search_spaces.errors import SponError
from search_spaces.load import parse_space
from search_spaces.resolve import resolve_grid
from search_spaces.trial import TrialConfig
from sweep.plan import Cost, compute_seconds, measure_cost
from sweep.run import run_sweep
from sweep.store.folder import SweepFolder, began
from sweep.terminal.display import say
from sweep.tune.levels import unmeasured
from trainables.activity import tell
from trainables.model.dtype import with_dtype
from trainables.quiet import hush
from trainables.workbench import find_materials

_SITES = "ALL-SITES"
_BLOCKS = {"cpu": (320, 24, 48), "cuda": (1024, 256, 256)}
"""Calibration, validation and test blocks for each kind of device."""
_LEAST, _MOST = 64, 8192
"""Range of calibration blocks that a budget may give."""
_STARTING = 150.0
"""Seconds of a sweep outside steps and passes: starting workers, and files."""
_TRAINING = {"lr": 1e-3, "schedule": "cosine", "warmup_steps": 2, "epochs": 1, "batch_size": 4}


def space_to_find(model: str, sparsity: float, text: list[str]) -> SpaceConfig:
    """Return the space that finds levels and biases for one model at one sparsity.

    Args:
        model: ``embedded``, a Hugging Face id, or a local directory.
        sparsity: share of all projection weights that need not be read.
        text: files, the last one for the test alone; the embedded text if empty.

    Raises:
        SponError: if an argument is wrong.
    """
    if len(text) == 1:
        raise SponError(f"text must have files to learn from and one to test on, but got {text[0]} alone (at --text)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    calibration, validation, test = _BLOCKS[device]
    corpus: dict[str, Any] = {"source": EMBEDDED}
    if text:
        corpus = {"source": "files", "files": {"calibration": text[:-1], "test": text[-1:]}}
    blocks = {"calibration": calibration, "validation": validation, "test": test}
    raw = {
        "name": f"find-{re.sub('[^A-Za-z0-9_.]+', '-', Path(model).name)}-s{sparsity:.2f}",
        "model": {"source": model},
        "corpus": corpus | {"pick": "spread", "blocks": blocks},
        "plan": {"modules": "all", "levels": ["uniform", "fisher"]},
        "sparsity": [sparsity],
        "allocations": [BASELINE, {"name": _SITES, "levels": ["fisher"]}],
        "training": _TRAINING,
        "resources": {"cpus_per_trial": os.cpu_count() or 1, "gpus_per_trial": 1 if device == "cuda" else 0},
    }
    return parse_space(raw, "sweep find")


def within_budget(space: SpaceConfig, minutes: float, storage: Path) -> SpaceConfig:
    """Return the space with as much calibration text as fits ``minutes``, or as its sweep has, if that has begun.

    More text gives better levels and biases. A separate process measures a step and a pass, so that its memory is free
    afterwards.

    Raises:
        SponError: if even the least text takes longer.
    """
    if begun := began(storage, space.name):
        return _with_calibration(space, begun.corpus.blocks.calibration)
    space, _ = with_dtype(space)
    tell("measuring how fast this machine is")
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        cost, trials = process.submit(_rehearsed, space).result()

    def needed(blocks: int) -> float:
        return (_STARTING + compute_seconds(_with_calibration(space, blocks), trials, cost)) / 60

    least, most = needed(_LEAST), needed(_MOST)
    if minutes < least:
        raise SponError(f"a budget must be at least {least:.0f} min on this machine, but got {minutes:g} (at --budget)")
    blocks = _LEAST + int((_MOST - _LEAST) * min(1.0, (minutes - least) / (most - least)))
    blocks -= blocks % space.training.batch_size
    say(f"{blocks} calibration blocks fit into {minutes:g} min")
    return _with_calibration(space, blocks)


def _with_calibration(space: SpaceConfig, blocks: int) -> SpaceConfig:
    counts = space.corpus.blocks.model_copy(update={"calibration": blocks})
    return space.model_copy(update={"corpus": space.corpus.model_copy(update={"blocks": counts})})


def _rehearsed(space: SpaceConfig) -> tuple[Cost, list[TrialConfig]]:
    """Return the measured cost of steps and passes, and the trials as far as they are known without measured levels."""
    hush()
    materials = find_materials(space.model, space.corpus)
    grids = [resolve_grid(one, materials.shape, materials.fingerprints)[0] for one in unmeasured(space)]
    trials = [trial for grid in grids for trial in grid]
    return measure_cost(space, trials), trials


def find(space: SpaceConfig, out: Path, storage: Path, tracking_uri: str) -> int:
    """Run the space and export its adapter.

    Args:
        space: from ``space_to_find``.
        out: directory of the adapter, new or empty.
        storage: directory of all results.
        tracking_uri: MLflow tracking URI.

    Returns:
        Exit status, as from ``run_sweep``.

    Raises:
        SponError: if the directory is not new or empty, or the space does not fit the model or the text.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise SponError(f"the adapter must go into a new or empty directory, but something is there (at {out})")
    code = run_sweep(space, storage, tracking_uri)
    if code:
        return code
    trained = next(trial for trial in SweepFolder(storage / space.name).trials if trial.config.sites)
    say(f"writing the adapter of {trained.path.name}")
    command = [sys.executable, "-m", "analysis", "export", str(trained.checkpoint_path), str(out)]
    return subprocess.run(command, check=False).returncode  # a process, because this room does not import analysis
