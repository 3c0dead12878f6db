"""A cluster by simulation: the real driver, Ray Tune, folder and MLflow on SQLite, with workers that only sleep.

    python -m tests.benchmarks.scale --workers 64 --trials 1000 --seconds 20

The driver is killed shortly before the end, and the same sweep taken up again. `--keep DIR` leaves all files there.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import ray

from search_spaces.load import parse_space
from sweep import run as sweep_run
from tests.benchmarks.overhead import idle_space, seconds_per_trial
from tests.benchmarks.sleeper import PLAN, SleepingTrainable
from tests.benchmarks.table import print_table
from tests.conftest import trials_of
from trainables.checkpoint import write_checkpoint
from trainables.ray_trainable import COMPLETE, NODE, VALIDATIONS
from trainables.trial import Trial, report_test
from trainables.workbench import Workbench

_EPOCHS = 10  # validations of a trial: those of the study
_TIMED = ("start_ray", "_run", "make_board", "write_board", "_publish")
"""Parts of a sweep, as `sweep.run` names them."""


def make_template(directory: Path, raw: dict[str, Any]) -> list[dict[str, float]]:
    """Train one trial for real, for its files; the metrics of its validations."""
    config = trials_of(raw | {"seeds": [0]})[0]
    bench = Workbench(config.model, config.corpus, "cpu", open_test=True)
    trial = Trial(bench, config)
    while not trial.done:
        trial.advance()
    for part in ("state", "checkpoint"):
        (directory / part).mkdir(parents=True)
    trial.save(directory / "state")
    write_checkpoint(report_test(bench, trial.finish()), directory / "checkpoint")
    return list(trial.history)


def drive(directory: Path, workers: int) -> None:
    """Be the driver: run the sweep, or go on with it, as the command line does."""
    space = parse_space(json.loads((directory / "space.json").read_text()), "the benchmark")
    ray.init("local", num_cpus=workers, include_dashboard=False, object_store_memory=2**28, log_to_driver=False)
    threading.Thread(target=_sample, args=(directory / "samples.txt",), daemon=True).start()
    with contextlib.ExitStack() as patches:
        patches.enter_context(patch("sweep.tune.tuner.SponTrainable", SleepingTrainable))
        for name in _TIMED:
            timed = _timed(getattr(sweep_run, name), directory / "times.txt")
            patches.enter_context(patch.object(sweep_run, name, timed))
        sweep_run.run_sweep(space, directory / "runs", f"sqlite:///{directory / 'mlflow.db'}")


def _timed(work: Callable[..., Any], file: Path) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        started = time.time()
        answer = work(*arguments)
        with file.open("a") as lines:
            lines.write(f"{work.__name__} {time.time() - started}\n")
        return answer

    return timed


def _sample(file: Path) -> None:
    """Each second: time, CPU seconds of the driver and of Ray's own processes, memory of the driver in MiB."""
    driver = psutil.Process()
    ours = [p for p in driver.children(recursive=True) if p.name() in ("gcs_server", "raylet")]
    while True:
        used = [sum(process.cpu_times()[:2]) for process in (driver, *ours)]
        with file.open("a") as lines:
            lines.write(f"{time.time()} {used[0]} {sum(used[1:])} {driver.memory_info().rss / 2**20}\n")
        time.sleep(1)


def notes(directory: Path) -> Iterator[list[tuple[float, str]]]:
    """Events of each worker, ascending."""
    for file in (directory / "notes").iterdir():
        yield [(float(line.split()[0]), line.split()[1]) for line in file.read_text().splitlines()]


def lags(workers: list[list[tuple[float, str]]]) -> list[float]:
    """Seconds between the last validation of a trial and the start of its worker's next one."""
    pairs = [pair for events in workers for pair in itertools.pairwise(events)]
    return [after - before for (before, ended), (after, begun) in pairs if (ended, begun) == ("end", "begin")]


def measure(directory: Path, n_workers: int, n_trials: int, seconds: float) -> None:
    """Run the sweep until it is almost done, kill the driver, take it up again; print the tables."""
    os.environ |= {"SPON_CACHE": str(directory / "cache"), "RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    raw = idle_space(directory, n_trials)
    raw |= {"training": {"epochs": _EPOCHS, "batch_size": 4}, "resources": {"cpus_per_trial": 1}}
    history = make_template(directory / "template", raw)
    (directory / "space.json").write_text(json.dumps(raw))
    (directory / "notes").mkdir()
    plan = {"template": str(directory / "template"), "notes": str(directory / "notes"), "history": history}
    keys = {"validations": VALIDATIONS, "complete": COMPLETE, "node": NODE}
    os.environ[PLAN] = json.dumps(plan | keys | {"seconds": seconds})
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--drive", directory, "--workers", str(n_workers)]
    until = n_trials - min(n_trials // 10, 2 * n_workers)
    with (directory / "driver.txt").open("w") as out:
        driver = subprocess.Popen(command, stdout=out, stderr=out)
        while (ended := _n_ended(directory)) < until:
            assert driver.poll() is None, (directory / "driver.txt").read_text()[-2000:]
            time.sleep(1)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    _print_run(directory, n_workers, ended, seconds)
    _take_up(directory, command, ended)


def _n_ended(directory: Path) -> int:
    return sum(event == "end" for events in notes(directory) for _, event in events)


def _print_run(directory: Path, n_workers: int, ended: int, seconds: float) -> None:
    workers = list(notes(directory))
    ends = sorted(at for events in workers for at, event in events if event == "end")
    begun = sorted(events[0][0] for events in workers)[n_workers - 1]  # all are there; Ray may replace one later
    waits = sorted(lags(workers))
    samples = [[float(word) for word in line.split()] for line in (directory / "samples.txt").read_text().splitlines()]
    steady = [sample for sample in samples if begun <= sample[0] <= ends[-1]]
    first, last = steady[0], steady[-1]
    span = last[0] - first[0]
    steady_ends = [end for end in ends if begun <= end]
    tenths = seconds_per_trial(steady_ends)
    rate = (len(steady_ends) - 1) / (steady_ends[-1] - steady_ends[0])
    rows = [
        ("trials that ended after all workers were there", len(steady_ends)),
        ("trials until the driver was killed", ended),
        ("trials per second", f"{rate:.2f}"),
        ("of what the workers could do", f"{rate * seconds / n_workers:.0%}"),
        ("lag to the next trial, median, s", f"{statistics.median(waits):.2f}"),
        ("lag, 95th percentile, s", f"{waits[int(0.95 * len(waits))]:.2f}"),
        ("driver, CPU share of a core", f"{(last[1] - first[1]) / span:.0%}"),
        ("driver, CPU ms a trial", f"{1000 * (last[1] - first[1]) / len(steady_ends):.0f}"),
        ("Ray's services, CPU share of a core", f"{(last[2] - first[2]) / span:.0%}"),
        ("driver memory at first and at last, MiB", f"{first[3]:.0f}, {last[3]:.0f}"),
        ("seconds per trial, first and last tenth", f"{tenths[0]:.3f}, {tenths[-1]:.3f}"),
        ("MLflow database, KiB a trial", f"{(directory / 'mlflow.db').stat().st_size / 1024 / ended:.0f}"),
        ("storage, KiB a trial", f"{_size(directory / 'runs') / 1024 / ended:.0f}"),
    ]
    print_table(f"{n_workers} workers, trials of {seconds:g} s with {_EPOCHS} validations", ["what", "figure"], rows)


def _take_up(directory: Path, command: list[Any], ended: int) -> None:
    """Run the killed sweep again to its end."""
    (directory / "times.txt").write_text("")
    before, started = {file.name for file in (directory / "notes").iterdir()}, time.time()
    with (directory / "again.txt").open("w") as out:
        subprocess.run(command, check=True, stdout=out, stderr=out)
    whole = time.time() - started
    new = [(directory / "notes" / name).read_text() for name in os.listdir(directory / "notes") if name not in before]
    rows = [("to the first trial that runs", min(float(text.split()[0]) for text in new) - started)]
    for line in (directory / "times.txt").read_text().splitlines():
        name, took = line.split()
        rows.append((name, float(took)))
    rows.append(("in all", whole))
    print_table(f"Taken up with {ended} trials ended", ["what", "seconds"], [(name, f"{s:.1f}") for name, s in rows])


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a trial (%(default)s)")
    parser.add_argument("--keep", type=Path, help="an empty directory for all files")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        drive(arguments.drive, arguments.workers)
        return
    with tempfile.TemporaryDirectory() as passing:
        measure(arguments.keep or Path(passing), arguments.workers, arguments.trials, arguments.seconds)


if __name__ == "__main__":
    main()
