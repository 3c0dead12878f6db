"""Kills at random moments over a sweep of a tiny model: is a trial lost, done twice, or different in the end?

    python -m tests.benchmarks.soak --kills 100 --trials 60

Two of three kills hit the worker, the third the driver, after which the same command is run again. A sweep without
faults is run first, and folder, biases and MLflow are compared. Where kills fall comes from `--seed`.

On two cores with nothing else: 100 kills (67 of workers, 33 of the driver) in 986 s; all 60 trials finished, with the
biases and the validations of the sweep without faults, and once each in MLflow.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml
from mlflow import MlflowClient

from sweep.store.folder import SweepFolder
from tests.conftest import make_llama, make_text

_SWEEP = [sys.executable, "-m", "sweep"]
_QUIET_SECONDS = (1.0, 5.0)
"""Before each kill, drawn evenly; a kill waits until there is a worker."""


def main() -> None:
    """Run both sweeps and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=140)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_AUTH_MODE": "disabled", "SPON_CACHE": str(directory / "cache")}
        space = _space(directory, arguments.trials, arguments.epochs, arguments.kills)
        whole, beaten = directory / "whole", directory / "beaten"
        subprocess.run([*_SWEEP, "run", space, "--storage", whole], check=True, stdout=subprocess.DEVNULL)
        started = time.monotonic()
        hit = _beat(space, beaten, arguments.kills, random.Random(arguments.seed))
        seconds = time.monotonic() - started
        print(f"{sum(hit.values())} kills ({dict(hit)}) over {arguments.trials} trials, {seconds:.0f} s")
        print(json.dumps(_compare(whole, beaten), indent=1))


def _space(directory: Path, trials: int, epochs: int, kills: int) -> Path:
    """A grid of seeds on two masks, with as many retries as there are kills."""
    raw = {
        "name": "soak",
        "model": {"source": str(make_llama(directory / "model")), "dtype": "float32"},
        "corpus": {
            "source": "files",
            "files": {split: list(files) for split, files in make_text(directory / "text").items()},
            "block_size": 16,
            "blocks": {"calibration": 16, "validation": 12, "test": 12},
        },
        "plan": {"rule": "topk"},
        "sparsity": [0.6],
        "allocations": ["UNIF-ALL", "TOP-50"],
        "seeds": list(range(1, trials // 2 + 1)),
        "training": {"lr": 0.03, "batch_size": 4, "epochs": epochs},
        "resources": {"max_failures": kills},
    }
    file = directory / "soak.yaml"
    file.write_text(yaml.safe_dump(raw))
    return file


def _beat(space: Path, storage: Path, kills: int, draw: random.Random) -> Counter[str]:
    """Run a sweep to its end, through kills; how many hit whom."""
    hit: Counter[str] = Counter()
    command = [*_SWEEP, "run", str(space), "--storage", str(storage)]
    while True:
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while sum(hit.values()) < kills and driver.poll() is None:
            time.sleep(draw.uniform(*_QUIET_SECONDS))
            workers = _workers(driver.pid)
            if sum(hit.values()) % 3 == 2 and workers:
                driver.kill()
                hit["driver"] += 1
                break
            if workers:
                _kill(draw.choice(workers), hit)
        if driver.wait() == 0:
            return hit


def _kill(worker: int, hit: Counter[str]) -> None:
    try:
        os.kill(worker, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself
    hit["worker"] += 1


def _workers(driver: int) -> list[int]:
    """Processes of trials under a driver: raylets are its children, workers theirs."""
    return [pid for raylet in _children(driver) for pid in _children(raylet) if "Trainable" in _line(pid)]


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, task.read_text().split())
        except OSError:
            continue  # it ended meanwhile


def _line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _compare(whole: Path, beaten: Path) -> dict[str, object]:
    """What the sweep that was beaten lacks, has twice, or has otherwise."""
    expected, got = ({t.path.name: t for t in SweepFolder(place / "soak").trials} for place in (whole, beaten))
    runs = _runs(beaten)
    biases = {name: (trial.checkpoint_path / "spon.safetensors") for name, trial in expected.items()}
    return {
        "trials": len(expected),
        "finished": sum(trial.state == "finished" for trial in got.values()),
        "lost": sorted(expected.keys() - got.keys()),
        "other biases": [
            name
            for name, trial in got.items()
            if (trial.checkpoint_path / "spon.safetensors").read_bytes() != biases[name].read_bytes()
        ],
        "validations lost or doubled": [
            name
            for name, trial in got.items()
            if [m["step"] for m in trial.progress] != [m["step"] for m in expected[name].progress]
        ],
        "runs in MLflow": sum(runs.values()) - 1,  # but for the sweep's own
        "doubled in MLflow": [name for name, count in runs.items() if count > 1],
    }


def _runs(storage: Path) -> Counter[str]:
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("spon-sweep")
    return Counter(run.info.run_name for run in client.search_runs([experiment.experiment_id], max_results=10_000))


if __name__ == "__main__":
    main()
