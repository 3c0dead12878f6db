"""Logs findings beside the trials in MLflow. Results are on disk first, so an MLflow outage only prints a line."""

import itertools
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.finding import ANALYSIS, Analysis, read_analysis
from trainables.tracking import EXPERIMENT, TRIAL_TAG, bound_waiting

_FOLDER = "analysis"
_SQLITE = "sqlite:///"
_UNNAMEABLE = re.compile(r"[^\w\-./ ]")
"""Characters that MLflow rejects in metric names."""
_UNSPOKEN = re.compile(r"[\W_]+")
"""What separates the letters and digits of a label, in any script."""


def log_results(tracking_uri: str, out: Path) -> None:
    """Log each checkpoint's results to the runs of its trial, and the report and comparison to their parent runs.

    Effects become metrics, such as ``analysis/worth/all_biases_minus_none``, which *Compare* sets side by side. On test
    text their names begin with ``analysis/test``. ``out`` is the directory of the results (``analysis.jobs``).
    """

    def log(client: Any, experiment: str) -> None:
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        parents: set[str] = set()
        for file in sorted(out.glob(f"*/{ANALYSIS}")):
            analysis = read_analysis(file)
            for run in _runs(client, experiment, analysis.subjects[0].identity):
                client.log_batch(run.info.run_id, metrics=_effects(analysis))
                client.log_artifacts(run.info.run_id, str(file.parent), _FOLDER)
                parents |= {run.data.tags[MLFLOW_PARENT_RUN_ID]} if MLFLOW_PARENT_RUN_ID in run.data.tags else set()
        for parent in parents:
            for shared in (file for file in out.iterdir() if file.is_file()):
                client.log_artifact(parent, str(shared), _FOLDER)

    _logged(tracking_uri, out, log)


def log_evaluation(tracking_uri: str, files: Sequence[Path], identity: str, metrics: Mapping[str, float]) -> None:
    """Log an evaluation's files, and its figures by name, to the runs of the trial with an identity."""

    def log(client: Any, experiment: str) -> None:
        for run in _runs(client, experiment, identity):
            for name, value in metrics.items():
                client.log_metric(run.info.run_id, _UNNAMEABLE.sub("_", name), value)
            for file in files:
                client.log_artifact(run.info.run_id, str(file), _FOLDER)

    _logged(tracking_uri, files[0].parent, log)


def _logged(tracking_uri: str, out: Path, log: Callable[[Any, str], None]) -> None:
    """Call ``log`` with a client and the experiment's id, if the experiment exists."""
    if tracking_uri.startswith(_SQLITE) and not Path(tracking_uri.removeprefix(_SQLITE)).exists():
        return  # nothing was ever tracked here, and a query would create the database
    bound_waiting()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        client = MlflowClient(tracking_uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            log(client, experiment.experiment_id)
    except (MlflowException, RequestException) as error:
        print(f"MLflow does not answer; results are in {out}: {str(error).splitlines()[0]}")


def _runs(client: Any, experiment: str, identity: str) -> Sequence[Any]:
    """Find the runs of a trial."""
    found: Sequence[Any] = client.search_runs([experiment], f"tags.`{TRIAL_TAG}` = '{identity}'")
    return found


def _effects(analysis: Analysis) -> list[Any]:
    """Convert the effects of all findings to MLflow metrics."""
    from mlflow.entities import Metric

    now, split = int(time.time() * 1000), analysis.subjects[0].split
    folder = _FOLDER if split == "validation" else f"{_FOLDER}/{split}"
    named = [
        (f"{folder}/{finding.analysis}/{name}", effect.value)
        for finding in analysis.findings
        for name, effect in zip(_names([e.label for e in finding.effects]), finding.effects, strict=True)
    ]
    return [Metric(name, value, now, 0) for name, value in named]


def _names(labels: Iterable[str]) -> list[str]:
    """Name the effects of a finding. Of several with one name, all but the first get a number."""
    names: list[str] = []
    for label in labels:
        plain = _UNSPOKEN.sub("_", label.lower()).strip("_") or "figure"
        numbered = (f"{plain}_{number}" for number in itertools.count(2))
        names.append(next(name for name in itertools.chain([plain], numbered) if name not in names))
    return names
