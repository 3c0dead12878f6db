"""What stands for a GPU in `scale.py`: a trainable that sleeps between validations.

It does not load torch, so that many fit on one machine, and writes the files of a trial that was really trained.
"""

import json
import os
import shutil
import time
from pathlib import Path
from socket import gethostname
from typing import Any

from ray import tune
from ray.tune.result import SHOULD_CHECKPOINT

PLAN = "SPON_SLEEPER"
"""Variable with what a trial does, as JSON: ``template`` and ``notes`` (directories), ``history`` (the metrics of each
validation), ``seconds`` (of a trial), and the keys of its results: ``validations``, ``complete`` and ``node``."""


class SleepingTrainable(tune.Trainable):
    """Sleeps, reports and saves as often as the trial in the template did; notes when each trial began and ended."""

    def setup(self, config: dict[str, Any]) -> None:
        self._plan = json.loads(os.environ[PLAN])
        self._template = Path(self._plan["template"])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial, self._reports = new_config["trial"], 0
        for state in new_config["states"][:1]:
            self.load_checkpoint(state)
        self._note("begin")
        return True

    def step(self) -> dict[str, Any]:
        history, plan = self._plan["history"], self._plan
        time.sleep(plan["seconds"] / len(history))
        self._reports = min(self._reports + 1, len(history))
        done = self._reports == len(history)
        if done:
            self._note("end")
        return {
            **history[self._reports - 1],
            plan["validations"]: history[: self._reports],
            "n_spon_params": 0,
            "training_iteration": self._reports,
            SHOULD_CHECKPOINT: True,
            plan["complete"]: done,
            plan["node"]: gethostname(),
            "done": done,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write as many files as a trial does."""
        place, done = Path(checkpoint_dir), self._reports == len(self._plan["history"])
        shutil.copytree(self._template / "state", place, dirs_exist_ok=True)
        (place / "reports").write_text(str(self._reports))
        if done:
            shutil.copytree(self._template / "checkpoint", place, dirs_exist_ok=True)
            meta = json.loads((place / "meta.json").read_text()) | {"config": self._trial}
            (place / "meta.json").write_text(json.dumps(meta))

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        """Go on from there."""
        self._reports = int((Path(checkpoint_dir) / "reports").read_text())

    def _note(self, event: str) -> None:
        with (Path(self._plan["notes"]) / str(os.getpid())).open("a") as file:
            file.write(f"{time.time()} {event} {self._trial['training']['seed']}\n")
