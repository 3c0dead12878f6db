"""What was found, logged beside the trials in MLflow. Disk comes first: an MLflow that is away costs a line."""

from pathlib import Path

from analysis.finding import read_analysis
from trainables.tracking import EXPERIMENT, TRIAL_TAG, bound_waiting

_FOLDER = "analysis"
_SQLITE = "sqlite:///"


def log_results(tracking_uri: str, out: Path) -> None:
    """Log each checkpoint's results to the runs of its trial, and the report and comparison to their parents.

    Args:
        tracking_uri: of MLflow.
        out: directory of the results (``analysis.jobs``).
    """
    if tracking_uri.startswith(_SQLITE) and not Path(tracking_uri.removeprefix(_SQLITE)).exists():
        return  # nothing was ever tracked here, and asking would make a database
    bound_waiting()
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        _log(tracking_uri, out)
    except (MlflowException, RequestException) as error:
        print(f"MLflow does not answer; results are in {out}: {str(error).splitlines()[0]}")


def _log(tracking_uri: str, out: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return
    parents: set[str] = set()
    for file in sorted(out.glob("*/analysis.json")):
        identity = read_analysis(file).subjects[0].identity
        for run in client.search_runs([experiment.experiment_id], f"tags.`{TRIAL_TAG}` = '{identity}'"):
            client.log_artifacts(run.info.run_id, str(file.parent), _FOLDER)
            parents |= {run.data.tags[MLFLOW_PARENT_RUN_ID]} if MLFLOW_PARENT_RUN_ID in run.data.tags else set()
    for parent in parents:
        for shared in (file for file in out.iterdir() if file.is_file()):
            client.log_artifact(parent, str(shared), _FOLDER)
