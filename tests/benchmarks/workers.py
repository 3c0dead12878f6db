"""Two workers of one thread against one worker of two threads: training steps per minute on two cores.

python -m tests.benchmarks.workers
"""

import argparse
import subprocess
import sys
import time

import torch

from tests.benchmarks.step import stepper
from tests.benchmarks.table import print_table

_VARIANT = "bf16, threshold"
_STEPS = 6  # of each worker


def work(threads: int) -> None:
    """Be a worker: load, warm up, say so, wait for a line, take the steps."""
    torch.set_num_threads(threads)
    step = stepper(_VARIANT)
    step()
    print("ready", flush=True)
    input()
    for _ in range(_STEPS):
        step()


def steps_per_minute(workers: int, threads: int) -> float:
    """Steps per minute of so many workers together; they load one after another and start at once."""
    command = [sys.executable, "-m", "tests.benchmarks.workers", "--be", str(threads)]
    running = []
    for _ in range(workers):
        worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        if worker.stdout.readline() != "ready\n":
            raise SystemExit("a worker did not start")
        running.append((worker, worker.stdin))
    started = time.perf_counter()
    for _, stdin in running:
        stdin.write("go\n")
        stdin.flush()
    for worker, _ in running:
        worker.wait()
    return workers * _STEPS / (time.perf_counter() - started) * 60


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--be", type=int, metavar="THREADS", help="be a worker")
    options = parser.parse_args()
    if options.be:
        work(options.be)
        return
    setups = {"one worker, one thread": (1, 1), "one worker, two threads": (1, 2), "two workers, one thread": (2, 1)}
    rates = {name: steps_per_minute(*setup) for name, setup in setups.items()}
    reference = rates["one worker, two threads"]
    rows = [(name, f"{rate:.1f}", f"{rate / reference:.2f}x") for name, rate in rates.items()]
    print_table("Workers on two cores", ["set-up", "steps per minute", "of one worker with two threads"], rows)


if __name__ == "__main__":
    main()
