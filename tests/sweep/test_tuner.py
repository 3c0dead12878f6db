"""What Ray Tune is given, without starting Ray."""

import pytest

from search_spaces.errors import SponError
from search_spaces.schema import TrialConfig
from sweep.tuner import grid_space
from tests.conftest import trials_of


def jobs(trials: list[TrialConfig]) -> dict[str, dict[str, object]]:
    return {trial.name: {"trial": trial.model_dump(mode="json")} for trial in trials}


def test_the_grid_is_of_names_only(tiny_raw: dict[str, object]) -> None:
    trials = trials_of(tiny_raw | {"seeds": [1, 2]})
    assert grid_space(jobs(trials))["name"] == {"grid_search": [trial.name for trial in trials]}


def test_a_name_of_the_grid_gives_its_config(tiny_raw: dict[str, object]) -> None:
    trials = trials_of(tiny_raw | {"seeds": [1, 2]})
    config = grid_space(jobs(trials))["trial"].sample({"name": trials[1].name})
    assert TrialConfig.model_validate(config) == trials[1]


def test_a_name_that_the_space_no_longer_has_is_refused(tiny_raw: dict[str, object]) -> None:
    with pytest.raises(SponError, match=r"must go on with the model and the text that it began with.*: gone is no"):
        grid_space(jobs(trials_of(tiny_raw)))["trial"].sample({"name": "gone"})
