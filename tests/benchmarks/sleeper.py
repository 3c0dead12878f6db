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
validation), ``seconds`` (of a trial), and the keys of its results: ``metrics``, ``state`` and ``complete``."""


class SleepingTrainable(tune.Trainable):
    """Sleeps, reports and saves as often as the trial in the template did; notes when each trial began and ended."""

    def setup(self, config: dict[str, Any]) -> None:
        self._plan = json.loads(os.environ[PLAN])
        self._template = Path(self._plan["template"])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial, self._states = new_config["trial"], Path(new_config["states"])
        there = sorted(self._states.glob("[0-9]*"))
        self._reports = int(there[-1].name) if there else 0
        self._note("begin")
        return True

    def step(self) -> dict[str, Any]:
        history, plan = self._plan["history"], self._plan
        time.sleep(plan["seconds"] / len(history))
        self._reports = min(self._reports + 1, len(history))
        done = self._reports == len(history)
        metrics, state = history[self._reports - 1], self._save(done)
        if done:
            self._note("end")
        return {
            plan["metrics"]: list(metrics.items()),
            "val_kl_nats": metrics["val_kl_nats"],
            "n_spon_params": 0,
            "training_iteration": self._reports,
            plan["state"]: str(state),
            plan["complete"]: done,
            "done": done,
        }

    def _save(self, done: bool) -> Path:
        """Write as many files as a trial does, as whole, and keep as many of them."""
        place = self._states / f"{self._reports:06d}"
        aside = place.with_name(f".{place.name}")
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        shutil.copytree(self._template / "state", aside)
        if done:
            shutil.copytree(self._template / "checkpoint", aside, dirs_exist_ok=True)
            meta = json.loads((aside / "meta.json").read_text()) | {"config": self._trial}
            (aside / "meta.json").write_text(json.dumps(meta))
        shutil.rmtree(place, ignore_errors=True)
        aside.rename(place)
        for old in sorted(self._states.glob("[0-9]*"))[:-2]:
            shutil.rmtree(old)
        return place

    def _note(self, event: str) -> None:
        with (Path(self._plan["notes"]) / str(os.getpid())).open("a") as file:
            file.write(f"{time.time()} {event} {self._trial['training']['seed']}\n")
