"""A sweep's trials and costs before it starts, estimated from a few measured steps."""

import math
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch

from search_spaces.comparison import shared_trial
from search_spaces.config import BlockCounts, SpaceConfig
from search_spaces.resolve import Fingerprints, resolve_grid
from search_spaces.search import check_search, search_of
from search_spaces.sites import ModelShape, Module, Site, module_label
from search_spaces.trial import TrialConfig
from sweep.search.measure import without_ranked
from sweep.terminal.display import say
from sweep.tune.levels import measured_blocks, unmeasured
from trainables.cost import forward_flop, gpu_bytes, step_flop, steps_per_epoch, teacher_bytes, total_steps
from trainables.model.dtype import with_dtype
from trainables.spon import SponBiases
from trainables.training import Trainer
from trainables.trial import score_biases
from trainables.workbench import Workbench, find_materials

_STEPS = 2
_TFLOPS = 125.0
"""Sustained bf16 TFLOP/s assumed for a GPU that is not here: 40% of an A100's rated peak."""


@dataclass(frozen=True)
class Cost:
    """Cost measured alone on this machine: seconds per optimiser step and per scored block, and peak memory."""

    step_seconds: float
    block_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Workload:
    """Work of a sweep, in counts.

    Attributes:
        steps: optimiser steps of a trained trial.
        validations: validations of a trained trial.
        blocks: blocks passed forward without a gradient in the whole sweep: teacher, baselines, validation, test.
    """

    steps: int
    validations: int
    blocks: int


def print_plan(space: SpaceConfig, measure: bool = True) -> None:
    """Print every trial of a space, with estimates of time and memory, measured on a few steps here if asked for.

    Raises:
        SponError: if the space does not fit the model or the corpus.
    """
    space, decision = with_dtype(space)
    say(decision)
    materials = find_materials(space.model, space.corpus)
    known = without_ranked(space)
    grids = [resolve_grid(one, materials.shape, materials.fingerprints) for one in unmeasured(known)]
    trials, others = [trial for grid, _ in grids for trial in grid], grids[0][1]
    print(f"{space.name}: {len(trials)} trials\n\n{_listing(trials)}\n")
    if space.plan.is_measured:
        print("levels are measured first")
    for name, other in others.items():
        print(f"{name} is the same mask as {other} and is trained once")
    for allocation in space.allocations:
        if allocation.is_measured:
            print(f"{allocation.label} is measured first, and not counted here")
    proxy_blocks = 0
    if space.search is not None:
        (known,) = unmeasured(known)
        check_search(known, materials.shape)
        trials, proxy_blocks = _search_trials(known, materials.shape, materials.fingerprints)
        print(f"the search trains at most {len(trials)} trials and scores {proxy_blocks:,} blocks on its proxy")
    size = teacher_bytes(materials.shape, _training_tokens(space)) / 2**20
    print(f"teacher statistics: {size:.0f} MB on disk, made once for all sweeps on this text")
    if space.resources.gpus_per_trial:
        print(_prediction(space, materials.shape, trials, proxy_blocks))
    if measure and (space.resources.device == "cpu" or torch.cuda.is_available()):
        print(_estimate(space, materials.shape, trials, proxy_blocks, measure_cost(space, trials)))


def _search_trials(space: SpaceConfig, shape: ModelShape, fingerprints: Fingerprints) -> tuple[list[TrialConfig], int]:
    """Return upper bounds: the trials of a search, and the blocks that its proxy scores.

    Masks that are not known yet count as the largest one, which has a bias at every candidate site.
    """
    search = search_of(space)
    named = resolve_grid(space.model_copy(update={"seeds": space.seeds[:1]}), shape, fingerprints)[0]
    proxy, confirm = search.proxy, search.confirm
    n_searched = proxy.n_train if proxy else search.n_masks
    epochs = (proxy.epochs or space.training.epochs) / space.training.epochs if proxy else 0
    n_largest = n_searched + search.most_compared(len(named)) * len(confirm.seeds) + math.ceil(epochs)
    blocks = (search.n_masks + len(named) + proxy.n_reference) * proxy.rungs[-1] if proxy else 0
    largest = shared_trial(space, shape, fingerprints)
    return [*named, *[largest] * n_largest], blocks


def _training_tokens(space: SpaceConfig) -> int:
    """Tokens whose teacher statistics a trial holds."""
    return (space.corpus.blocks.calibration + space.corpus.blocks.validation) * space.corpus.block_size


def _workload(space: SpaceConfig, trials: list[TrialConfig], proxy_blocks: int) -> Workload:
    counts, training = space.corpus.blocks, space.training
    steps = total_steps(counts.calibration, training)
    validations = -(-steps // (training.eval_every_steps or steps_per_epoch(counts.calibration, training)))
    plans = len({trial.plan_label for trial in trials})
    blocks = (
        proxy_blocks
        + measured_blocks(space, len({Site.parse(site).module for site in trials[0].plan.levels}))
        + counts.calibration  # teacher
        + (counts.validation + counts.test) * (1 + plans)  # teacher and TEAL alone
        + len([t for t in trials if t.sites]) * (counts.validation * validations + counts.test)
    )
    return Workload(steps, validations, blocks)


def _step_flop(space: SpaceConfig, shape: ModelShape, trial: TrialConfig) -> float:
    blocks = space.training.batch_size * space.training.gradient_accumulation_steps
    return step_flop(shape, blocks * space.corpus.block_size, map(Site.parse, trial.sites))


def _prediction(space: SpaceConfig, shape: ModelShape, trials: list[TrialConfig], proxy_blocks: int) -> str:
    work, length = _workload(space, trials, proxy_blocks), space.corpus.block_size
    steps = [_step_flop(space, shape, trial) for trial in trials if trial.sites]
    flop = work.steps * sum(steps) + work.blocks * forward_flop(shape, length)
    memory = gpu_bytes(shape, space.model.dtype, length, _training_tokens(space), space.training)
    hours = flop / (_TFLOPS * 1e12) / 3600
    return (
        f"predicted: {memory / 2**30:.1f} GiB of GPU memory a trial, up to {max(steps, default=0.0) / 1e12:.1f} TFLOP "
        f"a step; the sweep {hours:.3g} GPU-hours at {_TFLOPS:g} TFLOP/s sustained"
    )


def _listing(trials: list[TrialConfig]) -> str:
    rows = [
        {
            "trial": trial.name if trial.level_method == "uniform" else trial.name.rpartition("_")[0],
            "plan": trial.plan_label,
            "biased sites": summary(trial.sites),
            "params": f"{trial.n_spon_params:,}",
            "relative": f"{trial.relative_params:.2f}",
        }
        for trial in trials
    ]
    return pd.DataFrame(rows).to_string(index=False)


def summary(sites: tuple[str, ...]) -> str:
    """Format sites as layer ranges of modules, such as ``down_proj 0-14``."""
    layers: dict[Module, list[int]] = {}
    for site in map(Site.parse, sites):
        layers.setdefault(site.module, []).append(site.layer)
    modules: dict[str, list[Module]] = {}
    for module, indices in layers.items():
        modules.setdefault(_ranges(indices), []).append(module)
    return "; ".join(f"{module_label(alike)} {ranges}" for ranges, alike in modules.items()) or "none"


def _ranges(indices: list[int]) -> str:
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def measure_cost(space: SpaceConfig, trials: list[TrialConfig]) -> Cost:
    """Measure the cost of the largest trial on a few blocks, run as a worker would run it."""
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


def compute_seconds(space: SpaceConfig, trials: list[TrialConfig], cost: Cost, proxy_blocks: int = 0) -> float:
    """Return the seconds of a sweep's steps and passes in sequence, without starting and loading."""
    work, trained = _workload(space, trials, proxy_blocks), [trial for trial in trials if trial.sites]
    return len(trained) * work.steps * cost.step_seconds + work.blocks * cost.block_seconds


def _estimate(space: SpaceConfig, shape: ModelShape, trials: list[TrialConfig], proxy_blocks: int, cost: Cost) -> str:
    work, trained = _workload(space, trials, proxy_blocks), [trial for trial in trials if trial.sites]
    scoring = work.validations * space.corpus.blocks.validation * cost.block_seconds
    trial_seconds = work.steps * cost.step_seconds + scoring
    seconds = compute_seconds(space, trials, cost, proxy_blocks)
    rate = max((_step_flop(space, shape, t) for t in trained), default=0.0) / (cost.step_seconds or 1.0) / 1e12
    places = max(1, (os.cpu_count() or 1) // space.resources.cpus_per_trial)
    if space.resources.gpus_per_trial:
        places = max(1, int(torch.cuda.device_count() / space.resources.gpus_per_trial))
    workers = min(places, space.resources.max_concurrent or places, len(trials))
    return (
        f"a step takes {cost.step_seconds:.2f} s ({rate:.2f} TFLOP/s), a block {cost.block_seconds * 1000:.0f} ms; "
        f"a trial of {work.steps} steps about {trial_seconds / 60:.1f} min and {cost.peak_bytes / 2**30:.1f} GiB\n"
        f"the sweep about {seconds / workers / 60:.0f} min with {workers} workers on this machine"
    )
