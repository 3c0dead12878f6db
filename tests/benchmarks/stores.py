"""What several writers at once get out of a store: drivers of sweeps that share an MLflow or an Optuna study.

    python -m tests.benchmarks.stores

SQLite, and PostgreSQL where its programs and `psycopg` are installed. A record is an MLflow run with ten validations,
or an Optuna trial that is asked, told ten intermediate values, and told its end.
"""

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.entities import Metric

from tests.benchmarks.table import print_table
from tests.services import PASSWORD, postgres, postgres_programs

_WRITERS, _RECORDS = 8, 25  # records of each writer
_VALIDATIONS = 10


def mlflow_run(uri: str) -> Callable[[], None]:
    """Writes one run."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("stores").experiment_id

    def write() -> None:
        run = client.create_run(experiment).info.run_id
        for step in range(_VALIDATIONS):
            client.log_batch(run, metrics=[Metric(f"metric_{i}", float(step), step, step) for i in range(8)])
        client.set_terminated(run)

    return write


def optuna_trial(uri: str) -> Callable[[], None]:
    """Writes one trial."""
    study = optuna.load_study(study_name="stores", storage=uri, sampler=optuna.samplers.RandomSampler())

    def write() -> None:
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        for step in range(_VALIDATIONS):
            trial.report(float(step), step)
        study.tell(trial, 0.0)

    return write


RECORDS = {"mlflow": mlflow_run, "optuna": optuna_trial}


def _be_writer(what: str, uri: str, begin: Barrier, found: Queue) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    write, slowest, failures = RECORDS[what](uri), 0.0, 0
    begin.wait()
    for _ in range(_RECORDS):
        started = time.monotonic()
        try:
            write()
        except Exception:  # whatever the store raises, a record is lost
            failures += 1
        slowest = max(slowest, time.monotonic() - started)
    found.put((slowest, failures))


def measure(what: str, uri: str, n_writers: int) -> tuple[float, float, int]:
    """Records a second of all writers together, the slowest in seconds, and how many failed."""
    context = multiprocessing.get_context("spawn")
    begin, found = context.Barrier(n_writers + 1), context.Queue()
    arguments = (what, uri, begin, found)
    writers = [context.Process(target=_be_writer, args=arguments) for _ in range(n_writers)]
    for writer in writers:
        writer.start()
    begin.wait()
    started = time.monotonic()
    results = [found.get() for _ in writers]
    seconds = time.monotonic() - started
    for writer in writers:
        writer.join()
    failures = sum(failed for _, failed in results)
    return (n_writers * _RECORDS - failures) / seconds, max(slowest for slowest, _ in results), failures


@contextlib.contextmanager
def stores() -> Iterator[dict[str, dict[str, str]]]:
    """Address of each kind of record in each store."""
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as servers:
        found = {"SQLite": {name: f"sqlite:///{Path(place) / name}.db" for name in RECORDS}}
        if programs := postgres_programs():
            os.environ["PGPASSWORD"] = PASSWORD
            start = servers.enter_context(postgres(programs, *RECORDS))
            found["PostgreSQL"] = {name: start + name for name in RECORDS}
        yield found


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = []
    with stores() as found:
        for store, addresses in found.items():
            MlflowClient(addresses["mlflow"]).create_experiment("stores")
            optuna.create_study(study_name="stores", storage=addresses["optuna"])
            for what, uri in addresses.items():
                alone, together = measure(what, uri, 1), measure(what, uri, _WRITERS)
                rates = f"{alone[0]:.1f}", f"{together[0]:.1f}", f"{together[0] / alone[0]:.2f}x"
                slowest = f"{alone[1]:.2f}, {together[1]:.2f}"
                rows.append((what, store, *rates, slowest, f"{together[2]} of {_WRITERS * _RECORDS}"))
    head = ("what", "store", "one writer, a second", f"{_WRITERS} writers, a second", "ratio")
    print_table("Records of writers at once", (*head, "slowest, s", "lost"), rows)


if __name__ == "__main__":
    main()
