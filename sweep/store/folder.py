"""A sweep on disk. Results are written here first, and all else (MLflow, the board) is made from them.

| path under the storage     | what it is                              |
| -------------------------- | --------------------------------------- |
| mlflow.db, mlartifacts/    | shared by all sweeps                    |
| NAME/space.json            | the validated space                     |
| NAME/id                    | globally unique id of the sweep         |
| NAME/driver.*              | its current driver, and the lock        |
| NAME/parent.json           | the sweep's MLflow run                  |
| NAME/activity.json         | current activity, while a driver runs   |
| NAME/planned.json          | optimiser steps of each planned trial   |
| NAME/stages.json           | a search: stages so far, their trials   |
| NAME/mirror.json           | a bucket: who copied there last         |
| NAME/tune/STAGE.N/         | Ray Tune's files: logs, trial states    |
| NAME/trials/TRIAL/         | one trial:                              |
|   trial.json               | the resolved config                     |
|   progress.jsonl           | one line per validation                 |
|   log.txt                  | its events, with times and nodes        |
|   checkpoint/              | its checkpoint, if it finished          |
|   failure.txt              | the reason, if it failed                |
|   stopped.txt              | a scheduler ended it early              |
|   adopted.json             | it was trained in another sweep         |
|   auxiliary.txt            | trained only to measure something       |
|   mlflow.json              | what MLflow already has of it           |
| NAME/board.*               | table and figure                        |
| NAME/optuna.log            | a search: the Optuna study              |
| NAME/masks.jsonl           | a search: every scored mask             |
| NAME/proposals.json        | a search: outcomes of its proposals     |
| NAME/reference.jsonl       | a search: masks that span it, scored    |
| NAME/findings.*            | a search: its findings                  |
| NAME/search_*.png          | a search: its figures                   |
| NAME/levels.*              | measured levels and curves              |
| NAME/frontier.*            | KL against sparsity, by levels, biases  |
| NAME/importance.json       | figures that rank layers                |
| NAME/measured.jsonl        | the masks behind these figures          |
| NAME/selection.json        | a search: chosen masks, and how sure    |
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from search_spaces.config import SpaceConfig
from search_spaces.errors import SponError
from search_spaces.files import write_whole
from search_spaces.load import parse_space
from search_spaces.trial import TrialConfig
from sweep.store.storage import check_free, check_writable, pull, root_of, sweeps_in
from trainables.cache import make_writable, writable, written_aside
from trainables.checkpoint import META, Checkpoint, write_checkpoint, write_test

_ID, _SPACE, _PLANNED, _STAGES = "id", "space.json", "planned.json", "stages.json"

State = Literal["running", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class TrialFolder:
    """One trial of a sweep on disk."""

    path: Path

    @property
    def config(self) -> TrialConfig:
        """The resolved trial."""
        return TrialConfig.model_validate_json((self.path / "trial.json").read_text())

    @property
    def state(self) -> State:
        """State by its files: a checkpoint means finished, ``stopped.txt`` stopped, and ``failure.txt`` failed."""
        if (self.checkpoint_path / META).exists():
            return "finished"
        if (self.path / "stopped.txt").exists():
            return "stopped"
        return "failed" if (self.path / "failure.txt").exists() else "running"

    @property
    def checkpoint_path(self) -> Path:
        """Path of a finished trial's checkpoint."""
        return self.path / "checkpoint"

    @property
    def failure(self) -> str:
        """Why a failed trial failed."""
        return (self.path / "failure.txt").read_text()

    @property
    def progress(self) -> list[dict[str, float]]:
        """Metrics of every validation so far."""
        file = self.path / "progress.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def start(self, config: TrialConfig) -> None:
        """Record a trial. Safe to repeat."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "trial.json", config.model_dump_json(indent=1), sync=False)  # made again on resume

    def add_progress(self, *validations: dict[str, float]) -> bool:
        """Record the validations, given in ascending order, that are new. Return whether the last one is new."""
        known = self.progress
        steps = {metrics["step"] for metrics in known}
        new = [metrics for metrics in validations if metrics["step"] not in steps]
        if new:
            lines = [json.dumps(one) + "\n" for one in (*known, *new)]
            write_whole(self.path / "progress.jsonl", "".join(lines), sync=False)  # each result repeats all of them
        return bool(new) and new[-1] is validations[-1]

    @property
    def log_path(self) -> Path:
        """Path of the trial's log, which exists if anything happened to it in this sweep."""
        return self.path / "log.txt"

    def note(self, event: str) -> None:
        """Add an event to the trial's log, with the time (UTC)."""
        with self.log_path.open("a") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}  {event}\n")

    def store(self, checkpoint: Checkpoint) -> None:
        """Write the trial's checkpoint, which marks the trial as finished."""
        with writable(self.path), written_aside(self.checkpoint_path) as aside:
            write_checkpoint(checkpoint, aside)

    def add_test(self, checkpoint: Checkpoint) -> None:
        """Write the test scores beside the checkpoint, which stays unchanged."""
        with writable(self.path):
            write_test(checkpoint, self.checkpoint_path)

    def stop(self) -> None:
        """Record that a scheduler ended the trial early."""
        (self.path / "stopped.txt").touch()

    @property
    def is_auxiliary(self) -> bool:
        """Whether it was trained only to measure something, and stays off the board."""
        return (self.path / "auxiliary.txt").exists()

    def set_aside(self, config: TrialConfig) -> None:
        """Record an auxiliary trial."""
        self.start(config)
        (self.path / "auxiliary.txt").touch()

    def include(self) -> None:
        """Count the trial as a result, even if it was trained only to measure something."""
        (self.path / "auxiliary.txt").unlink(missing_ok=True)

    def retry(self) -> None:
        """Restart a failed trial from its last saved state."""
        self.note(f"tried again, after: {self.failure}")
        (self.path / "failure.txt").unlink()

    def fail(self, reason: str) -> None:
        """Record why the trial failed."""
        write_whole(self.path / "failure.txt", reason)


@dataclass(frozen=True)
class SweepFolder:
    """One sweep on disk."""

    path: Path

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.path.name

    @property
    def id(self) -> str:
        """Globally unique id, which tells sweeps apart on a server that several clusters share."""
        file = self.path / _ID
        if not file.exists():
            write_whole(file, uuid4().hex)
        return file.read_text()

    @property
    def ear(self) -> str:
        """Name of the actor that hears this sweep's workers, unique to the sweep and stable across restarts."""
        return f"spon-ear-{self.id}"

    @property
    def space(self) -> SpaceConfig:
        """The space that the sweep was started with."""
        file = self.path / _SPACE
        return parse_space(json.loads(file.read_text()), str(file))

    @property
    def trials(self) -> list[TrialFolder]:
        """Trials recorded so far, by name."""
        return [TrialFolder(file.parent) for file in sorted(self.path.glob("trials/*/trial.json"))]

    @property
    def results(self) -> list[TrialFolder]:
        """Finished trials without auxiliary ones."""
        return [trial for trial in self.trials if trial.state == "finished" and not trial.is_auxiliary]

    @property
    def journal(self) -> Path:
        """Path of a search's Optuna studies."""
        return self.path / "optuna.log"

    @property
    def planned(self) -> dict[str, int]:
        """Optimiser steps of the planned trials, by name, as far as they are known."""
        return self._recorded(_PLANNED)

    def plan(self, steps: dict[str, int]) -> None:
        """Add planned trials to those recorded already."""
        write_whole(self.path / _PLANNED, json.dumps(self.planned | steps, indent=1))

    @property
    def stages(self) -> dict[str, list[str]]:
        """Stages of a search that have begun, in order, each with the names of the trials that it trains."""
        return self._recorded(_STAGES)

    def begin(self, stage: str, trials: Iterable[str] = ()) -> None:
        """Record that a stage of a search has begun. Safe to repeat."""
        write_whole(self.path / _STAGES, json.dumps(self.stages | {stage: list(trials)}, indent=1))

    def _recorded(self, name: str) -> dict[str, Any]:
        file = self.path / name
        return dict(json.loads(file.read_text())) if file.exists() else {}

    @property
    def tune(self) -> str:
        """Directory of Ray Tune's files, for the driver and all workers: an absolute path or a URI."""
        return f"{root_of(self.path.parent)}/{self.name}/tune"

    def job(self, config: TrialConfig, states: Mapping[str, list[str]]) -> dict[str, Any]:
        """Return the part of Ray's config for a planned trial, given the states of all trials (``states_in``).

        It has the two newest states, in case the newest cannot be read.
        """
        return {"trial": config.model_dump(mode="json"), "states": states.get(config.name, [])[:2]}

    def trial(self, config: TrialConfig) -> TrialFolder:
        """Return the folder of a trial, which need not exist yet."""
        return TrialFolder(self.path / "trials" / config.name)


def open_sweep(storage: Path, name: str) -> SweepFolder:
    """Open an existing sweep.

    Raises:
        SponError: if it does not exist; the message lists those that do.
    """
    known = sweeps_in(storage)
    if name not in known:  # a path that leads elsewhere is not known either
        there = ", ".join(known) or "none"
        raise SponError(f"a sweep must exist in {root_of(storage)}, but {name!r} does not; there are: {there}")
    pull(storage, name)
    return SweepFolder(storage / name)


def began(storage: Path, name: str) -> SpaceConfig | None:
    """Return the space that the sweep of this name began with, if there is one."""
    pull(storage, name)
    folder = SweepFolder(storage / name)
    return folder.space if (folder.path / _SPACE).exists() else None


def check_sweep(storage: Path, space: SpaceConfig) -> None:
    """Refuse a storage or a name that the space cannot have, before anything expensive.

    Raises:
        SponError: if the storage cannot be written, a driver on another machine holds the sweep, or the name stands for
            another space.
    """
    make_writable(storage)
    check_writable(storage)
    check_free(storage / space.name)
    _check_name(storage, space)


def _check_name(storage: Path, space: SpaceConfig) -> None:
    """Refuse a name that stands for another space."""
    before = began(storage, space.name)  # parsed, so that a new key has its default
    if before is not None and not _goes_on(before, space):
        raise SponError(
            f"a sweep's name must stand for one space, but {space.name!r} in {storage} was made for another; "
            "choose another name (--set name=...), change only resources, or add allocations or seeds to a grid"
        )


def _goes_on(before: SpaceConfig, space: SpaceConfig) -> bool:
    """Whether earlier results stay valid: only the resources differ, or a grid has grown."""
    grows = () if before.search else ("allocations", "seeds")
    fewer = {key: getattr(space, key)[: len(getattr(before, key))] for key in grows}
    same = space.model_copy(update={"resources": before.resources, **fewer})
    return _written(before) == _written(same) and before.resources.device == space.resources.device


def create_sweep(storage: Path, space: SpaceConfig) -> SweepFolder:
    """Create the folder of a space that passed ``check_sweep``, or reuse the one it has.

    Raises:
        SponError: if the name stands for another space by now, or the folder cannot be written.
    """
    folder = SweepFolder(storage / space.name)
    _check_name(storage, space)
    make_writable(folder.path)
    with writable(folder.path):
        write_whole(folder.path / _SPACE, json.dumps(_written(space), indent=1))
    return folder


def _written(space: SpaceConfig) -> dict[str, Any]:
    """Dump a space for its file, without the training seed, whose default would look like a choice beside ``seeds``."""
    return space.model_dump(mode="json", exclude={"training": {"seed"}})
