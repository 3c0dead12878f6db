"""A training step against plain's: time, peak memory and gradients, on the embedded model, UNIF-ALL, batch 8 x 128.

python -m tests.benchmarks.step
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from search_spaces.load import load_space
from search_spaces.resolve import resolve_space
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig
from tests.benchmarks.plain import Plain
from tests.benchmarks.table import print_table
from trainables.loss import linear_kl
from trainables.sparse import sparsified
from trainables.spon import SponBiases
from trainables.training import Trainer
from trainables.workbench import Workbench

_SPACE = Path("search_spaces/embedded.yaml")
_SPARSITY = 0.5
_BATCH = 8
_THREADS, _REPEATS = 2, 5
_VARIANTS = {
    "plain": ("float32", "topk"),
    "fp32, topk": ("float32", "topk"),
    "bf16, topk": ("bfloat16", "topk"),
    "fp32, threshold": ("float32", "threshold"),
    "bf16, threshold": ("bfloat16", "threshold"),
}


def subject(variant: str) -> tuple[Workbench, TrialConfig]:
    """A workbench on the first blocks of the embedded text, and a trial for it."""
    dtype, rule = _VARIANTS[variant]
    settings = [f"model.dtype={dtype}", f"plan.rule={rule}", f"sparsity=[{_SPARSITY}]", "allocations=[UNIF-ALL]"]
    settings += ["corpus.blocks={calibration: 64, validation: 8, test: 8}", "training.epochs=1000"]
    space = load_space(_SPACE, settings)
    bench = Workbench(space.model, space.corpus, "cpu")
    (trial,) = resolve_space(space, bench.materials.shape, bench.materials.fingerprints)
    return bench, trial


def sites_of(trial: TrialConfig) -> tuple[Site, ...]:
    """The biased sites."""
    return tuple(Site.parse(site) for site in trial.sites)


def stepper(variant: str) -> Callable[[], object]:
    """A function that takes one optimiser step."""
    bench, trial = subject(variant)
    if variant == "plain":
        plain = Plain(bench.model, sites_of(trial), _SPARSITY)
        return lambda: plain.step(bench.blocks("calibration").tokens[:_BATCH])
    trainer = Trainer(bench, trial.plan, sites_of(trial), trial.training)
    return lambda: trainer.train_until(trainer.step + 1)


def step_seconds() -> dict[str, float]:
    """Median seconds of a step of each variant, taken in turn so that the machine's moods hit all alike."""
    steppers = {variant: stepper(variant) for variant in _VARIANTS}
    taken: dict[str, list[float]] = {variant: [] for variant in _VARIANTS}
    for repeat in range(_REPEATS + 1):
        for variant, step in steppers.items():
            started = time.perf_counter()
            step()
            if repeat:  # the first one warms up
                taken[variant].append(time.perf_counter() - started)
    return {variant: median(values) for variant, values in taken.items()}


def peak_mib(variant: str) -> float:
    """Peak resident memory of a process that loads the model and takes two steps."""
    command = [sys.executable, "-m", "tests.benchmarks.step", "--peak-of", variant]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def gradients(variant: str) -> dict[Site, Tensor]:
    """The first gradient of each site, on the first calibration blocks."""
    bench, trial = subject(variant)
    tokens, sites = bench.blocks("calibration").tokens[:_BATCH], sites_of(trial)
    if variant == "plain":
        plain = Plain(bench.model, sites, _SPARSITY)
        vectors, loss = plain.biases, plain.loss(tokens)
    else:
        biases = SponBiases(bench.model, sites, "output_bias")
        teacher = bench.teacher("calibration")
        mean_row, entropy = teacher.mean_row[:_BATCH].flatten(0, 1), teacher.entropy[:_BATCH].flatten()
        with sparsified(bench.model, trial.plan, bench.thresholds(trial.plan), biases):
            loss = linear_kl(bench.model.hidden(tokens).flatten(0, 1), bench.model.head, mean_row, entropy)
        vectors = biases.vectors
    loss.backward()
    return {site: vector.grad for site, vector in vectors.items() if vector.grad is not None}


def worst_cosine(mine: dict[Site, Tensor], reference: dict[Site, Tensor]) -> float:
    """The lowest cosine of a site's gradient to the reference."""
    return min(torch.cosine_similarity(mine[s].double(), reference[s].double(), dim=0).item() for s in reference)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak-of", choices=_VARIANTS, help="print the peak memory of this variant, in MiB")
    options = parser.parse_args()
    torch.set_num_threads(_THREADS)
    if options.peak_of:
        step = stepper(options.peak_of)
        for _ in range(2):
            step()
        status = Path("/proc/self/status").read_text()  # getrusage would give the parent's peak if that is higher
        print(int(status.split("VmHWM:")[1].split()[0]) / 2**10)
        return
    seconds = step_seconds()
    peaks = {variant: peak_mib(variant) for variant in _VARIANTS}
    reference = gradients("plain")
    cosines = {v: worst_cosine(gradients(v), reference) if v.endswith("topk") else None for v in _VARIANTS}
    rows = [
        (
            variant,
            f"{seconds[variant]:.2f}",
            f"{seconds['plain'] / seconds[variant]:.2f}x",
            f"{peaks[variant]:.0f}",
            f"{peaks[variant] / peaks['plain']:.2f}",
            f"{cosines[variant]:.6f}" if cosines[variant] is not None else "another rule",
        )
        for variant in _VARIANTS
    ]
    head = ["step", "seconds", "faster than plain", "peak MiB", "of plain's", "worst gradient cosine to plain"]
    print_table(f"A training step, {_THREADS} threads, median of {_REPEATS}", head, rows)


if __name__ == "__main__":
    main()
