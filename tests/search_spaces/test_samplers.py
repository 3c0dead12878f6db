import optuna
import pytest
from optuna.trial import TrialState

from search_spaces.config import Grid, Nsga2, Random, Tpe
from search_spaces.masks import ExactlyK
from search_spaces.samplers import make_sampler
from search_spaces.search import named_suggestions, trial_of_suggestion
from tests.search_spaces.conftest import make_space

ALGORITHMS = [Tpe(n_startup_trials=5), Nsga2(population_size=6), Random(), Grid()]
MASKS = [
    {"family": "subset"},
    {"family": "exactly_k", "k": 3},
    {"family": "window"},
    {"family": "layer_module_bits", "modules": ["o_proj", "down_proj"]},
    {"family": "module_per_layer", "modules": ["o_proj", "down_proj"]},
]


def space(masks, **search):
    return make_space(plan={"modules": ["o_proj", "down_proj"]}, search={"masks": masks, **search})


def cost(trial):
    """The later the layers, the better."""
    return -sum(float(site.partition(".")[0]) for site in trial.sites)


@pytest.fixture(autouse=True)
def _quiet():
    """Without a line from Optuna for each trial."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(level)


@pytest.fixture
def searched(shape, fingerprints):
    """The study of so many trials of a toy objective, named allocations first."""

    def run(config, algorithm, count=30, seed=0):
        directions = ["minimize"] * len(config.search.objectives)
        study = optuna.create_study(sampler=make_sampler(algorithm, seed), directions=directions)
        for params in named_suggestions(config, shape):
            study.enqueue_trial(params)

        def objective(suggestion):
            trial = trial_of_suggestion(config, suggestion, shape, fingerprints)
            suggestion.set_user_attr("sites", trial.sites)
            return (cost(trial), trial.n_spon_params)[: len(directions)]

        study.optimize(objective, n_trials=count)
        return study

    return run


@pytest.mark.filterwarnings("error::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("masks", MASKS, ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_a_sampler_searches_every_family(searched, masks, algorithm):
    study = searched(space(masks), algorithm)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 30


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_a_sampler_takes_two_objectives(searched, algorithm):
    study = searched(space({"family": "subset"}, objectives=["val_kl_nats", "n_spon_params"]), algorithm)
    assert [len(trial.values) for trial in study.trials] == [2] * 30


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_the_same_seed_proposes_the_same(searched, algorithm):
    one, two = (searched(space(MASKS[1]), algorithm, 15, seed=3) for _ in range(2))
    assert [trial.params for trial in one.trials] == [trial.params for trial in two.trials]


@pytest.mark.parametrize("algorithm", ALGORITHMS[:2], ids=str)
def test_a_sampler_learns_which_layers_are_good(searched, algorithm):
    config = space({"family": "exactly_k", "k": 3})
    learned, drawn = searched(config, algorithm, 80), searched(config, Random(), 80)
    late = [sum(trial.value for trial in study.trials[-20:]) for study in (learned, drawn)]
    assert late[0] < 1.2 * late[1]


def test_tpe_seldom_repeats_itself_on_masks_of_exactly_k(shape_of):
    family, shape, masks = ExactlyK(k=15), shape_of(30), set()
    study = optuna.create_study(sampler=make_sampler(Tpe(), 0))
    for _ in range(80):
        suggestion = study.ask()
        mask = family.suggest(suggestion, shape)
        study.tell(suggestion, sum(site.layer * (-1) ** site.layer for site in mask))
        masks.add(mask)
    assert len(masks) > 70


def test_a_grid_is_every_suggestion_once(searched):
    config = space({"family": "window", "min_length": 6})
    study = searched(config, Grid(), 100)
    assert len(study.trials) == len({tuple(trial.params.items()) for trial in study.trials}) == 3 * 3


def test_the_end_of_a_grid_is_no_error_where_trials_are_asked_for_and_told(shape, fingerprints):
    study = optuna.create_study(sampler=make_sampler(Grid(), 0))
    for _ in range(3):
        suggestion = study.ask()
        trial = trial_of_suggestion(space({"family": "window", "min_length": 8}), suggestion, shape, fingerprints)
        study.tell(suggestion, cost(trial))
    assert study.best_value == -28
