"""What a sweep will do and cost, before it starts: its trials, and an estimate from a few measured steps."""

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch

from search_spaces.resolve import other_names, resolve_space
from search_spaces.schema import BlockCounts, SpaceConfig, TrialConfig
from search_spaces.sites import Site
from trainables.spon import SponBiases
from trainables.teacher import size_in_bytes
from trainables.training import Trainer, steps_per_epoch, total_steps
from trainables.trial import score_biases
from trainables.workbench import Workbench, find_materials

_STEPS = 2


@dataclass(frozen=True)
class Cost:
    """Measured on this machine, alone: seconds of an optimiser step, of scoring a block, and peak memory."""

    step_seconds: float
    block_seconds: float
    peak_bytes: int


def print_plan(space: SpaceConfig, measure: bool = True) -> None:
    """Print every trial of a space and, unless told not to measure, time and memory.

    Raises:
        SponError: if the space does not fit the model or the corpus.
    """
    materials = find_materials(space.model, space.corpus)
    trials = resolve_space(space, materials.shape, materials.fingerprints)
    print(f"{space.name}: {len(trials)} trials\n\n{_listing(trials)}\n")
    for name, known in other_names(space, materials.shape, materials.fingerprints).items():
        print(f"{name} is the same mask as {known} and is trained once")
    tokens = (space.corpus.blocks.calibration + space.corpus.blocks.validation) * space.corpus.block_size
    size = size_in_bytes(tokens, materials.shape.hidden_size, space.training.loss == "kl+logit_l2") / 2**20
    print(f"teacher statistics: {size:.0f} MB on disk, made once for all sweeps on this text")
    if measure:
        print(_estimate(space, trials, measure_cost(space, trials)))


def _listing(trials: list[TrialConfig]) -> str:
    rows = [
        {
            "trial": trial.name,
            "plan": trial.plan.label,
            "biased sites": _summary(trial.sites),
            "params": f"{trial.n_spon_params:,}",
            "relative": f"{trial.relative_params:.2f}",
        }
        for trial in trials
    ]
    return pd.DataFrame(rows).to_string(index=False)


def _summary(sites: tuple[str, ...]) -> str:
    """Sites as layer ranges a module, such as ``down_proj 0-14``."""
    layers: dict[str, list[int]] = {}
    for site in map(Site.parse, sites):
        layers.setdefault(site.module, []).append(site.layer)
    return "; ".join(f"{module} {_ranges(indices)}" for module, indices in layers.items()) or "none"


def _ranges(indices: list[int]) -> str:
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def measure_cost(space: SpaceConfig, trials: list[TrialConfig]) -> Cost:
    """Rehearse the largest trial on a few blocks, in the way that a worker runs it."""
    torch.set_num_threads(space.resources.cpus_per_trial)
    batch = space.training.batch_size * space.training.gradient_accumulation_steps
    few = BlockCounts(calibration=max(batch, 8), validation=8, test=1)
    bench = Workbench(space.model, space.corpus.model_copy(update={"blocks": few}), space.resources.device)
    largest = max(trials, key=lambda trial: trial.n_spon_params)
    sites = tuple(Site.parse(site) for site in largest.sites)
    training = largest.training.model_copy(update={"epochs": 1 + _STEPS, "max_steps": 1 + _STEPS})
    biases, step = SponBiases(bench.model, sites, training.form), 0.0
    if sites:
        trainer = Trainer(bench, largest.plan, sites, training)
        trainer.train_until(1)
        step = _seconds(lambda: trainer.train_until(1 + _STEPS)) / _STEPS
    blocks = len(bench.blocks("validation").tokens)
    bench.teacher("validation")
    block = _seconds(lambda: score_biases(bench, largest.plan, biases, "validation")) / blocks
    return Cost(step, block, _peak_bytes())


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _estimate(space: SpaceConfig, trials: list[TrialConfig], cost: Cost) -> str:
    counts, training = space.corpus.blocks, space.training
    steps = total_steps(counts.calibration, training)
    validations = -(-steps // (training.eval_every_steps or steps_per_epoch(counts.calibration, training)))
    trained = [trial for trial in trials if trial.sites]
    plans = len({str(trial.plan) for trial in trials})
    blocks = (
        counts.calibration  # teacher
        + (counts.validation + counts.test) * (1 + plans)  # teacher and TEAL alone
        + len(trained) * (counts.validation * validations + counts.test)
    )
    trial_seconds = steps * cost.step_seconds + validations * counts.validation * cost.block_seconds
    seconds = len(trained) * steps * cost.step_seconds + blocks * cost.block_seconds
    places = max(1, (os.cpu_count() or 1) // space.resources.cpus_per_trial)
    if space.resources.gpus_per_trial:
        places = max(1, int(torch.cuda.device_count() / space.resources.gpus_per_trial))
    workers = min(places, space.resources.max_concurrent or places, len(trials))
    return (
        f"a step takes {cost.step_seconds:.2f} s, a block {cost.block_seconds * 1000:.0f} ms; "
        f"a trial of {steps} steps about {trial_seconds / 60:.1f} min and {cost.peak_bytes / 2**30:.1f} GiB\n"
        f"the sweep about {seconds / workers / 60:.0f} min with {workers} workers on this machine"
    )
