"""What a sweep costs beside its training: many trials that do nothing, through the real driver, Ray, MLflow on SQLite.

python -m tests.benchmarks.overhead --trials 1000
"""

import argparse
import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import psutil
import ray
from mlflow import MlflowClient

from search_spaces.load import parse_space
from sweep.store.folder import SweepFolder, create_sweep
from sweep.tune.cluster import start_ray
from sweep.tune.tuner import run_trials
from tests.benchmarks.table import print_table
from tests.conftest import make_llama, make_text, trials_of
from trainables import ray_trainable
from trainables.ray_trainable import SponTrainable
from trainables.tracking import EXPERIMENT
from trainables.trial import Metrics, Trial, metrics_of
from trainables.workbench import find_materials

_LAYERS = 16  # as many as the 1B model has: MLflow gets a param a layer
_WORKERS = 2
_TENTHS = 10


class IdleTrial(Trial):
    """A trial that neither trains nor validates: it reports TEAL alone once, and its biases stay zero."""

    @property
    def done(self) -> bool:
        return bool(self._history)

    def advance(self, before_each_step: Callable[[], None] = lambda: None) -> Metrics:
        teal = self._teal.scores
        metrics = {"step": 0.0} | metrics_of("val", self._dense, teal, teal) | {"seconds": 0.0}
        self._kept, self._kept_scores = self._trainer.biases.state(), teal
        self._history.append(metrics)
        return metrics


class IdleTrainable(SponTrainable):
    """The adapter as it is, around trials that do nothing."""

    def _begin(self, bench, trial, config) -> None:
        with patch.object(ray_trainable, "Trial", IdleTrial):
            super()._begin(bench, trial, config)


def idle_space(directory: Path, n_trials: int) -> dict[str, object]:
    """A space of so many distinct trials: one draw of layers, a seed a trial."""
    return {
        "name": "idle",
        "model": {"source": str(make_llama(directory / "model", num_hidden_layers=_LAYERS)), "dtype": "float32"},
        "corpus": {
            "source": "files",
            "files": make_text(directory / "text"),
            "block_size": 16,
            "blocks": {"calibration": 16, "validation": 12, "test": 12},
        },
        "plan": {"rule": "topk"},
        "sparsity": [0.6],
        "allocations": ["RANDOM-8"],
        "seeds": list(range(n_trials)),
        "resources": {"cpus_per_trial": 1, "max_concurrent": _WORKERS},
    }


def seconds_per_trial(ended: list[float]) -> list[float]:
    """Wall seconds per trial of each tenth of the trials; what comes before the first end is the start of Ray.

    Args:
        ended: when each trial was over, ascending, in seconds.
    """
    bounds = [round(part * (len(ended) - 1) / _TENTHS) for part in range(_TENTHS + 1)]
    return [(ended[end] - ended[start]) / (end - start) for start, end in itertools.pairwise(bounds)]


def ends(folder: SweepFolder) -> list[float]:
    """When the driver had passed on the last event of each trial, in seconds since the epoch, ascending."""
    return sorted((trial.path / "mlflow.json").stat().st_mtime for trial in folder.trials)


def measure(directory: Path, n_trials: int) -> None:
    """Run the sweep and print the tables."""
    os.environ["SPON_CACHE"] = str(directory / "cache")
    raw = idle_space(directory, n_trials)
    space, trials = parse_space(raw, "the benchmark"), trials_of(raw)
    shape = find_materials(space.model, space.corpus).shape
    folder = create_sweep(directory / "runs", space)
    start_ray(space.resources)
    rss_start, started = _rss_mib(), time.time()
    uri = f"sqlite:///{directory / 'mlflow.db'}"
    with _quiet(directory / "driver.txt"), patch("sweep.tune.tuner.SponTrainable", IdleTrainable):
        run_trials(folder, shape, trials, uri)
    seconds, rss_end = time.time() - started, _rss_mib()
    ray.shutdown()
    assert len(folder.results) == n_trials
    assert _children(uri) == n_trials, "MLflow must have a finished run a trial"
    ended = ends(folder)
    tenths = seconds_per_trial(ended)
    rows = [(number, f"{value:.3f}") for number, value in enumerate(tenths, start=1)]
    print_table(f"{n_trials} trials that do nothing, {_WORKERS} workers", ["tenth", "seconds per trial"], rows)
    head = ["last tenth / first", "s in all", "s to the first end", "s after the last", "driver MiB", "at the end"]
    times = (seconds, ended[0] - started, started + seconds - ended[-1])
    sizes = (f"{rss_start:.0f}", f"{rss_end:.0f}")
    print_table("The driver", head, [(f"{tenths[-1] / tenths[0]:.2f}", *(f"{t:.1f}" for t in times), *sizes)])


def _children(uri: str) -> int:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", max_results=50_000)
    return len(found)


@contextlib.contextmanager
def _quiet(file: Path) -> Iterator[None]:
    """Keep the driver's line an event apart from the tables."""
    with file.open("w") as out, contextlib.redirect_stdout(out):
        yield


def _rss_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, help="how many (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        measure(Path(directory), arguments.trials)


if __name__ == "__main__":
    main()
