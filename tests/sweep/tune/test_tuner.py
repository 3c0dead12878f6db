"""What Ray Tune is given, without starting Ray."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.tune.execution.class_cache import _ActorClassCache

from search_spaces.errors import SponError
from search_spaces.load import parse_space
from search_spaces.trial import TrialConfig
from sweep.store.folder import SweepFolder, create_sweep
from sweep.store.storage import home_of
from sweep.tune import tuner
from sweep.tune.tuner import Interrupted, fit, grid_space, run_trials
from tests.conftest import trials_of
from tests.search_spaces.conftest import make_shape
from trainables.ray_trainable import SponTrainable


def jobs(trials: list[TrialConfig]) -> dict[str, dict[str, object]]:
    return {trial.name: {"trial": trial.model_dump(mode="json")} for trial in trials}


def test_the_grid_is_of_names_only_each_of_which_gives_its_config(tiny_raw: dict[str, object]) -> None:
    trials = trials_of(tiny_raw | {"seeds": [1, 2]})
    grid = grid_space(jobs(trials))
    assert grid["name"] == {"grid_search": [trial.name for trial in trials]}
    assert TrialConfig.model_validate(grid["trial"].sample({"name": trials[1].name})) == trials[1]


def test_ray_is_given_the_resources_and_the_limits(
    tiny_raw: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    class Tuner(tune.Tuner):
        def __init__(self, trainable: Any, **settings: Any) -> None:
            given.update(settings, place=trainable.default_resource_request({}))

        def fit(self) -> None: ...

    monkeypatch.setattr(tune, "Tuner", Tuner)
    asked = {
        "cpus_per_trial": 2,
        "gpus_per_trial": 0.5,
        "accelerator_type": "A100",
        "max_failures": 7,
        "max_minutes": 9,
    }
    folder = create_sweep(tmp_path, parse_space(tiny_raw | {"resources": asked}, "test"))
    fit(folder, "grid", SponTrainable, {}, tune.Callback(), tune.TuneConfig())
    assert given["place"] == tune.PlacementGroupFactory([{"CPU": 2, "GPU": 0.5, "accelerator_type:A100": 0.001}])
    assert given["run_config"].failure_config.max_failures == 7
    assert given["param_space"] == {"threads": 2, "gpus": 0.5, "max_minutes": 9, "ear": folder.ear}


@pytest.fixture
def stage(tiny_raw: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    """The folder of a sweep whose stages run without Ray."""
    monkeypatch.setattr(tuner, "places", lambda *_: 1)
    return create_sweep(tmp_path, parse_space(tiny_raw, "test"))


def state_of(folder: SweepFolder, trial: TrialConfig) -> Path:
    """A saved state of a trial."""
    state = Path(folder.tune) / "grid.1" / trial.name / "checkpoint_000000"
    state.mkdir(parents=True)
    (state / "history.json").touch()
    return state


def test_a_stage_that_is_over_leaves_the_states_of_others_and_of_what_may_be_retried(
    tiny_raw: dict[str, object], stage: SweepFolder
) -> None:
    done, failed, later = trials_of(tiny_raw | {"seeds": [1, 2, 3]})[:3]
    states = [state_of(stage, trial) for trial in (done, failed, later)]
    for trial in (done, failed):
        stage.trial(trial).start(trial)
    stage.trial(done).stop()
    stage.trial(failed).fail("no GPU")
    run_trials(stage, make_shape(2), [done, failed], "sqlite://")
    assert [state.exists() for state in states] == [False, True, True]


@pytest.mark.parametrize("put_off", [1, 2])
def test_only_trials_that_were_put_off_run_again_and_a_stopped_stage_does_not(
    put_off: int, tiny_raw: dict[str, object], stage: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, fits = trials_of(tiny_raw | {"seeds": [1, 2]})[:2], []

    def fit(folder: SweepFolder, *given: Any) -> None:
        callback = given[3]
        fits.append(callback)
        callback.put_off |= {trial.name for trial in trials[:put_off]} if len(fits) == 1 else set()

    monkeypatch.setattr(tuner, "fit", fit)
    with pytest.raises(Interrupted, match="2 trials to go"):
        run_trials(stage, make_shape(2), trials, "sqlite://")
    assert len(fits) == put_off  # all were put off: they run again; else the other one was interrupted


@pytest.mark.parametrize("in_a_callback", [False, True])
def test_a_bucket_that_goes_away_while_a_stage_runs_is_one_line(
    in_a_callback: bool, stage: SweepFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sweep.store.folder.pull", lambda *_: None)
    folder = create_sweep(home_of("s3://bucket/results", tmp_path), stage.space)

    def end() -> None:
        try:
            raise OSError("Could not connect to server")
        except OSError:
            if not in_a_callback:
                raise
            raise tune.TuneError("Traceback")  # noqa: B904 - as Ray does

    with pytest.raises(SponError, match=r"the bucket must answer, but Could not connect to server \(at s3://bucket"):
        tuner._run(SimpleNamespace(fit=end), folder)


def test_cloud_keys_are_not_passed_to_trials_through_rays_log(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.setenv(name, "planted")
    tuner._keep_secrets()
    passed = _ActorClassCache().get(SponTrainable)._default_options["runtime_env"]
    assert "planted" not in str(passed)
