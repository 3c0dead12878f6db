"""What stands for a GPU in `scale.py`: a trainable that sleeps between validations.

It does not load torch, so that many fit on one machine, and writes the files of a trial that was really trained.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from ray import tune

PLAN = "SPON_SLEEPER"
"""Variable with what a trial does, as JSON: ``template`` and ``notes`` (directories), ``history`` (the metrics of each
validation), ``seconds`` (of a trial) and ``complete`` (key of a trial's last result)."""


class SleepingTrainable(tune.Trainable):
    """Sleeps, reports and saves as often as the trial in the template did; notes when each trial began and ended."""

    def setup(self, config: dict[str, Any]) -> None:
        self._plan = json.loads(os.environ[PLAN])
        self._template = Path(self._plan["template"])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial, self._reports = new_config["trial"], 0
        self._note("begin")
        return True

    def step(self) -> dict[str, Any]:
        history, complete = self._plan["history"], self._plan["complete"]
        time.sleep(self._plan["seconds"] / len(history))
        metrics = history[self._reports]
        self._reports += 1
        done = self._reports == len(history)
        if done:
            self._note("end")
        return {**metrics, "n_spon_params": 0, complete: done, "done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        directory, history = Path(checkpoint_dir), self._plan["history"]
        shutil.copytree(self._template / "state", directory, dirs_exist_ok=True)
        (directory / "history.json").write_text(json.dumps(history[: self._reports]))
        if self._reports == len(history):
            shutil.copytree(self._template / "checkpoint", directory, dirs_exist_ok=True)
            meta = json.loads((directory / "meta.json").read_text()) | {"config": self._trial}
            (directory / "meta.json").write_text(json.dumps(meta))

    def restore(self, checkpoint_path: Any) -> None:
        there = sorted(Path(checkpoint_path.checkpoint.path).parent.glob("checkpoint_*/history.json"))
        self._reports = len(json.loads(there[-1].read_text())) if there else 0

    def _note(self, event: str) -> None:
        with (Path(self._plan["notes"]) / str(os.getpid())).open("a") as file:
            file.write(f"{time.time()} {event} {self._trial['training']['seed']}\n")
