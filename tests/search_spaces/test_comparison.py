import pytest
from optuna.trial import FixedTrial

from search_spaces.comparison import RANDOM, controls, reference_masks, shared_trial, trials_like
from search_spaces.config import SpaceConfig
from search_spaces.errors import SponError
from search_spaces.masks import ExactlyK, LayerModuleBits, Subset
from search_spaces.resolve import resolve_space
from search_spaces.search import trial_of_suggestion
from search_spaces.sites import Site

TWO = ["o_proj", "down_proj"]
SUBSET = {"masks": {"family": "subset"}, "proxy": {}}
BITS = {"masks": {"family": "layer_module_bits", "modules": TWO}, "proxy": {}}


def space(search, **changes):
    given = {
        "name": "s",
        "model": {"dtype": "float32"},
        "sparsity": [0.5],
        "allocations": ["TOP-50", "UNIF-ALL"],
        "search": search,
        **changes,
    }
    return SpaceConfig.model_validate(given)


def down(*layers):
    return tuple(Site(layer, "down_proj") for layer in layers)


@pytest.fixture
def shared(shape, fingerprints):
    """The shared trial of a space with changes."""
    return lambda search, **changes: shared_trial(space(search, **changes), shape, fingerprints)


@pytest.fixture
def trials(shape, fingerprints):
    """The plain trials of a space with changes."""
    return lambda **changes: resolve_space(space(None, **changes), shape, fingerprints)


# Shared biases


def test_shared_biases_are_at_every_site_that_a_mask_can_have_in_canonical_order(shared):
    trial = shared(BITS, plan={"modules": TWO})
    assert trial.sites == tuple(f"{layer}.{module}" for layer in range(8) for module in TWO)


def test_shared_biases_are_at_sites_outside_the_plan_where_the_space_takes_them(shared):
    trial = shared(BITS, plan={"modules": ["down_proj"], "allow_unsparsified_biases": True})
    assert len(trial.sites) == 16
    assert len(trial.plan.levels) == 8


@pytest.mark.parametrize(
    ("proxy", "epochs"), [({}, 10), ({"epochs": 3}, 3), ({"epochs": 10}, 10)], ids=["none", "other", "same"]
)
def test_shared_biases_are_trained_for_the_epochs_of_the_proxy(shared, proxy, epochs):
    trial = shared(SUBSET | {"proxy": proxy})
    assert trial.training.epochs == epochs


def test_shared_biases_are_trained_with_the_seed_that_chooses(shared):
    trial = shared(SUBSET, seeds=[7, 8])
    assert trial.training.seed == 7


@pytest.mark.parametrize("proxy", [{}, {"epochs": 10}], ids=str)
@pytest.mark.parametrize(("allocations", "name"), [(["TOP-50", "UNIF-ALL"], "UNIF-ALL"), (["TOP-50"], "mask-")])
def test_shared_biases_trained_as_masks_are_the_trial_of_that_mask(shape, fingerprints, proxy, allocations, name):
    config = space(SUBSET | {"proxy": proxy}, allocations=allocations)
    every = FixedTrial({f"{layer:02d}.down_proj": True for layer in range(8)})
    trial = shared_trial(config, shape, fingerprints)
    assert trial == trial_of_suggestion(config, every, shape, fingerprints)
    assert trial.allocation.startswith(name)


def test_shared_biases_trained_for_longer_are_another_trial_with_a_name_of_its_own(shared):
    longer, same = shared(SUBSET | {"proxy": {"epochs": 20}}), shared(SUBSET)
    assert longer.allocation == "shared-biases"
    assert longer.sites == same.sites
    assert longer.identity != same.identity


def test_a_space_without_a_search_has_no_shared_biases(shared):
    with pytest.raises(SponError, match="must have a key search"):
        shared(None)


# Trials like another


@pytest.mark.parametrize("form", ["output_bias", "input_vector"])
def test_a_trial_like_another_is_the_one_that_the_space_gives_to_the_mask(trials, shape, form):
    changes = {"allocations": ["TOP-50", "BOTTOM-50"], "seeds": [1, 2], "training": {"form": form}}
    top, _, *bottom = trials(**changes)
    assert trials_like(top, "BOTTOM-50", down(4, 5, 6, 7), [1, 2], shape) == bottom


def test_the_sites_of_a_trial_like_another_are_in_canonical_order(trials, shape):
    like = trials(plan={"modules": TWO})[0]
    mask = {Site(2, "down_proj"), Site(2, "o_proj"), Site(1, "down_proj")}
    (trial,) = trials_like(like, "mine", mask, [5], shape)
    assert (trial.sites, trial.allocation) == (("1.down_proj", "2.o_proj", "2.down_proj"), "mine")
    assert (trial.training.seed, trial.plan) == (5, like.plan)


# Controls


def test_controls_are_early_late_random_and_inverted(shape):
    found = controls(Subset().units(shape), frozenset(down(1, 4, 6)), n_random=2)
    assert list(found) == ["early-3", "late-3", "random-3-0", "random-3-1", "inverted"]


def test_early_and_late_are_the_first_and_the_last_units(shape):
    found = controls(Subset().units(shape), frozenset(down(1, 4, 6)), n_random=0)
    assert found["early-3"] == down(0, 1, 2)
    assert found["late-3"] == down(5, 6, 7)


def test_the_inverse_is_what_the_mask_left_out(shape):
    found = controls(Subset().units(shape), frozenset(down(1, 4, 6)), n_random=0)
    assert found["inverted"] == down(0, 2, 3, 5, 7)


def test_the_inverse_of_everything_is_left_out(shape):
    assert list(controls(Subset().units(shape), frozenset(down(*range(8))), n_random=1)) == ["early-8", "late-8"]


def test_of_nothing_there_is_only_the_inverse(shape):
    assert controls(Subset().units(shape), frozenset(), n_random=2) == {"inverted": down(*range(8))}


def test_random_controls_have_as_many_units_in_order(shape):
    found = controls(Subset().units(shape), frozenset(down(1, 4, 6)), n_random=20)
    masks = [sites for name, sites in found.items() if name.startswith("random")]
    assert len(masks) == 20
    assert all(len(set(mask)) == 3 and list(mask) == sorted(mask) for mask in masks)


def test_random_controls_differ_among_themselves_and_with_the_seed(shape):
    units, mask = Subset().units(shape), frozenset(down(1, 4, 6))
    one, same, other = (controls(units, mask, n_random=5, seed=seed) for seed in (0, 0, 1))
    assert one == same != other
    assert len({one[f"random-3-{draw}"] for draw in range(5)}) > 1


def test_controls_keep_units_of_several_sites_whole(shape):
    units = ExactlyK(k=2, modules=("o_proj", "down_proj")).units(shape)
    found = controls(units, frozenset(units[3] + units[5]), n_random=3)
    for sites in found.values():
        assert {site for unit in units if set(unit) <= set(sites) for site in unit} == set(sites)
    assert [len(sites) for sites in found.values()] == [4, 4, 4, 4, 4, 12]


def test_controls_of_single_sites_are_counted_in_sites(shape):
    units = LayerModuleBits(modules=("o_proj", "down_proj")).units(shape)
    found = controls(units, frozenset(down(7)), n_random=0)
    assert found["early-1"] == (Site(0, "o_proj"),)
    assert len(found["inverted"]) == 15


# Masks that span a search


def spanned(shape, fingerprints, n_random=3, masks=None):
    search = {"masks": masks or {"family": "exactly_k", "k": 2}, "proxy": {"n_reference": n_random}}
    given = space(search, allocations=["BASELINE-TEAL", "UNIF-ALL", "MIDDLE-25", "ALTERNATING-25"])
    return {trial.allocation: layers(trial) for trial in reference_masks(given, shape, fingerprints)}


def layers(trial):
    return tuple(Site.parse(site).layer for site in trial.sites)


def test_named_masks_of_the_family_and_the_ends_of_the_scale_span_a_search(shape, fingerprints):
    found = spanned(shape, fingerprints, n_random=0)
    ends = {"early-2": (0, 1), "late-2": (6, 7), "inverted": (0, 1, 2, 5, 6, 7)}
    assert found == {"MIDDLE-25": (3, 4), "ALTERNATING-25": (0, 4)} | ends


def test_random_masks_of_the_family_span_it_too_and_all_differ(shape, fingerprints):
    found = spanned(shape, fingerprints, n_random=20)
    drawn = [mask for name, mask in found.items() if name.startswith(RANDOM)]
    assert len(drawn) == 20
    assert {len(mask) for mask in drawn} == {2}
    assert len(set(found.values())) == len(found)


def test_a_family_of_few_masks_has_no_more_to_span_it(shape, fingerprints):
    found = spanned(shape, fingerprints, n_random=50, masks={"family": "window", "min_length": 7})
    assert len(found) == 3  # two windows of seven layers and one of eight, which is UNIF-ALL


def test_a_mask_that_spans_the_search_is_the_trial_that_its_suggestion_would_be(shape, fingerprints):
    given = space({"masks": {"family": "subset"}, "proxy": {"n_reference": 1, "epochs": 7}})
    (*_, random) = reference_masks(given, shape, fingerprints)
    params = Subset().params_of(tuple(map(Site.parse, random.sites)), shape)
    proposed = trial_of_suggestion(given, FixedTrial(params), shape, fingerprints)
    assert proposed.identity == random.identity
