"""Findings as metrics of the trials' runs."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient

from analysis.finding import Analysis, Effect
from analysis.tracking import log_results
from search_spaces.files import write_config
from tests.analysis.report.conftest import subject
from tests.analysis.test_finding import finding
from tests.swept import tracking_in
from trainables.tracking import EXPERIMENT, TRIAL_TAG


class Logged:
    """The run of a trial, and a directory with its results."""

    def __init__(self, directory: Path) -> None:
        self._out, self._uri = directory / "analysis", tracking_in(directory)
        self._client = MlflowClient(self._uri)
        experiment = self._client.create_experiment(EXPERIMENT, artifact_location=str(directory / "artifacts"))
        self._run = self._client.create_run(experiment, tags={TRIAL_TAG: "alpha"}).info.run_id

    def log(self, effects: Sequence[Effect], split: str = "validation") -> dict[str, float]:
        """Log effects of one finding, and return all metrics of the run."""
        found = finding("shift").model_copy(update={"effects": tuple(effects)})
        examined = subject("alpha").model_copy(update={"split": split})
        write_config(Analysis(subjects=(examined,), findings=(found,)), self._out / "alpha" / "analysis.json")
        log_results(self._uri, self._out)
        return self._client.get_run(self._run).data.metrics


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    return Logged(tmp_path)


def test_figures_on_test_text_do_not_overwrite_those_on_validation_text(logged: Logged):
    logged.log([Effect(label="site outputs, biases", value=1)])
    assert logged.log([Effect(label="site outputs, biases", value=2)], "test") == {
        "analysis/shift/site_outputs_biases": 1,
        "analysis/test/shift/site_outputs_biases": 2,
    }


def test_labels_that_differ_only_in_signs_are_metrics_of_their_own(logged: Logged):
    labels = ("C: shift", "C++: shift", "C#: shift", "C, shift 2", "数学: shift", "!", "?")
    assert logged.log([Effect(label=label, value=value) for value, label in enumerate(labels)]) == {
        "analysis/shift/c_shift": 0,
        "analysis/shift/c_shift_2": 1,
        "analysis/shift/c_shift_3": 2,
        "analysis/shift/c_shift_2_2": 3,
        "analysis/shift/数学_shift": 4,
        "analysis/shift/figure": 5,
        "analysis/shift/figure_2": 6,
    }
