"""What a search algorithm is worth: best KL so far against forward passes spent, on the proxy, several seeds each; and
what scoring a mask on the proxy costs, as a share of training one.

python -m tests.benchmarks.search search_spaces/embedded-search.yaml SHARED --masks 30 --repeats 3

SHARED is the checkpoint of the shared biases of a search that has run (``runs/NAME/trials/.../checkpoint``). A block
that trains counts three forward passes of one that is scored: that is what training each mask, without the proxy, is
charged for the same proposals.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import optuna

from search_spaces.comparison import trials_like
from search_spaces.load import load_space
from search_spaces.resolve import Fingerprints
from search_spaces.samplers import make_sampler
from search_spaces.schema import SpaceConfig
from search_spaces.search import search_of, trial_of_suggestion
from search_spaces.search_config import Nsga2, Random, Tpe
from search_spaces.sites import ModelShape, Site
from tests.benchmarks.table import print_table
from trainables.checkpoint import Checkpoint, read_checkpoint
from trainables.dtype import with_dtype
from trainables.proxy import Mask, MaskScorer
from trainables.schedule import total_steps
from trainables.trial import run_trial
from trainables.workbench import Workbench

_ALGORITHMS = {
    "random": Random(),
    "TPE": Tpe(n_startup_trials=5),
    "NSGA-II": Nsga2(population_size=8),
}
_SHARES = (0.25, 0.5, 1.0)


def mask_of(space: SpaceConfig, suggestion: object, shape: ModelShape) -> Mask:
    trial = trial_of_suggestion(space, suggestion, shape, Fingerprints("", ""))
    return frozenset(map(Site.parse, trial.sites))


def sampled(
    space: SpaceConfig, shape: ModelShape, algorithm, score: Callable[[Mask, int], float], seed: int
) -> Iterator:
    """KL of one proposal after another, each on all blocks."""
    study = optuna.create_study(sampler=make_sampler(algorithm, seed))
    blocks = search_of(space).proxy.rungs[0]
    while True:
        suggestion = study.ask()
        value = score(mask_of(space, suggestion, shape), blocks)
        study.tell(suggestion, value)
        yield value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("space", type=Path)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--masks", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = with_dtype(load_space(arguments.space, []))[0]
    shared = read_checkpoint(arguments.shared)
    bench = Workbench(space.model, space.corpus, "cpu")
    scorer = MaskScorer(bench, shared.meta.config.plan, shared.biases)
    shape, training = bench.model.shape, space.training
    blocks = search_of(space).proxy.rungs[0]
    steps = total_steps(space.corpus.blocks.calibration, training)
    per_trained = 3 * steps * training.batch_size + space.corpus.blocks.validation
    rows, repeated = [], {}
    seconds: dict[Mask, float] = {}
    for name, algorithm in _ALGORITHMS.items():
        best = []
        for seed in range(arguments.repeats):
            asked: list[Mask] = []

            def score(mask: Mask, n_blocks: int, asked: list[Mask] = asked) -> float:
                asked.append(mask)
                started = time.perf_counter()
                kl = scorer.kl_nats(mask, n_blocks)
                if mask not in seconds:  # the scorer remembers
                    seconds[mask] = time.perf_counter() - started
                return kl

            proposals = sampled(space, shape, algorithm, score, seed)
            values = [next(proposals) for _ in range(arguments.masks)]
            repeated[name] = repeated.get(name, 0) + len(asked) - len(set(asked))
            best.append(np.minimum.accumulate(values))
            print(name, seed, f"{best[-1][-1]:.5f}", flush=True)
        curve = np.array(best)
        at = [max(1, round(share * arguments.masks)) for share in _SHARES]
        rows.append((name, *(f"{curve[:, n - 1].mean():.5f} ± {curve[:, n - 1].std(ddof=1):.5f}" for n in at)))
        rows[-1] += (repeated[name],)
    spent = [f"after {max(1, round(share * arguments.masks)) * blocks:,} blocks" for share in _SHARES]
    print_table(
        f"Best KL on the proxy, nats, mean ± sd of {arguments.repeats} seeds; training one mask costs {per_trained:,}",
        ("algorithm", *spent, "masks proposed twice"),
        rows,
    )
    scored, trained = median(seconds.values()), training_seconds(bench, shared, next(iter(seconds)))
    print(
        f"\nSeconds a mask: {scored:.2f} on {blocks} blocks, {trained:.1f} to train, {trained / scored:.0f} times that"
    )


def training_seconds(bench: Workbench, shared: Checkpoint, mask: Mask) -> float:
    """What a trial of a mask takes in a worker that has had others: validation included, preparations not."""
    config = shared.meta.config
    (trial,) = trials_like(config, "mask", mask, [config.training.seed], bench.model.shape)
    short = trial.model_copy(update={"training": trial.training.model_copy(update={"max_steps": 1})})
    for one in (short, trial):  # the first makes thresholds, means and baselines
        started = time.perf_counter()
        run_trial(bench, one)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
