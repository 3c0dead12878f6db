import pytest
from optuna.trial import FixedTrial

from search_spaces.comparison import RANDOM, controls, reference_masks, shared_trial, trials_like
from search_spaces.errors import SponError
from search_spaces.masks import ExactlyK, LayerModuleBits, Subset
from search_spaces.resolve import resolve_space
from search_spaces.search import trial_of_suggestion
from search_spaces.sites import Site
from tests.search_spaces.conftest import make_space

TWO = ["o_proj", "down_proj"]
SUBSET = {"masks": {"family": "subset"}, "proxy": {}}
BITS = {"masks": {"family": "layer_module_bits", "modules": TWO}, "proxy": {}}


def down(*layers):
    return tuple(Site(layer, "down_proj") for layer in layers)


@pytest.fixture
def shared(shape, fingerprints):
    """The shared trial of a search in a small space with changes."""
    return lambda search, **changes: shared_trial(make_space(search=search, **changes), shape, fingerprints)


@pytest.fixture
def trials(shape, fingerprints):
    """The trials of a small space with changes."""
    return lambda **changes: resolve_space(make_space(**changes), shape, fingerprints)


# Shared biases


def test_shared_biases_are_at_every_site_that_a_mask_can_have_in_canonical_order(shared):
    every = tuple(f"{layer}.{module}" for layer in range(8) for module in TWO)
    assert shared(BITS, plan={"modules": TWO}).sites == every
    outside = shared(BITS, plan={"modules": ["down_proj"], "allow_unsparsified_biases": True})
    assert (outside.sites, len(outside.plan.levels)) == (every, 8)


@pytest.mark.parametrize(("proxy", "epochs"), [({}, 10), ({"epochs": 3}, 3)], ids=["none", "other"])
def test_shared_biases_are_trained_for_the_epochs_of_the_proxy_with_the_seed_that_chooses(shared, proxy, epochs):
    training = shared(SUBSET | {"proxy": proxy}, seeds=[7, 8]).training
    assert (training.epochs, training.seed) == (epochs, 7)


@pytest.mark.parametrize("proxy", [{}, {"epochs": 10}], ids=str)
@pytest.mark.parametrize(("allocations", "name"), [(["TOP-50", "UNIF-ALL"], "UNIF-ALL"), (["TOP-50"], "mask-")])
def test_shared_biases_trained_as_masks_are_the_trial_of_that_mask(shape, fingerprints, proxy, allocations, name):
    config = make_space(search=SUBSET | {"proxy": proxy}, allocations=allocations)
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
    with pytest.raises(SponError, match=r"must have a key search, but s has none \(at search\)"):
        shared(None)


# Trials like another


@pytest.mark.parametrize("form", ["output_bias", "input_vector"])
def test_a_trial_like_another_is_the_one_that_the_space_gives_to_the_mask(trials, shape, form):
    top, _, *bottom = trials(allocations=["TOP-50", "BOTTOM-50"], seeds=[1, 2], training={"form": form})
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
    assert (found["early-3"], found["late-3"]) == (down(0, 1, 2), down(5, 6, 7))
    assert found["inverted"] == down(0, 2, 3, 5, 7)


def test_the_empty_mask_among_controls_is_left_out(shape):
    units = Subset().units(shape)
    assert list(controls(units, frozenset(down(*range(8))), n_random=1)) == ["early-8", "late-8"]
    assert controls(units, frozenset(), n_random=2) == {"inverted": down(*range(8))}


def test_random_controls_have_as_many_units_in_order_and_differ_among_themselves_and_with_the_seed(shape):
    units, mask = Subset().units(shape), frozenset(down(1, 4, 6))
    one, same, other = (controls(units, mask, n_random=20, seed=seed) for seed in (0, 0, 1))
    drawn = [sites for name, sites in one.items() if name.startswith("random")]
    assert len(set(drawn)) == 20
    assert all(len(set(sites)) == 3 and list(sites) == sorted(sites) for sites in drawn)
    assert one == same != other


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


@pytest.fixture
def spanned(shape, fingerprints):
    """Name and layers of each reference mask."""

    def masks(n_random, **family):
        search = {"masks": family or {"family": "exactly_k", "k": 2}, "proxy": {"n_reference": n_random}}
        space = make_space(search=search, allocations=["BASELINE-TEAL", "UNIF-ALL", "MIDDLE-25", "ALTERNATING-25"])
        found = reference_masks(space, shape, fingerprints)
        return {trial.allocation: tuple(Site.parse(site).layer for site in trial.sites) for trial in found}

    return masks


def test_named_masks_of_the_family_and_the_ends_of_the_scale_span_a_search(spanned):
    ends = {"early-2": (0, 1), "late-2": (6, 7), "inverted": (0, 1, 2, 5, 6, 7)}
    assert spanned(0) == {"MIDDLE-25": (3, 4), "ALTERNATING-25": (0, 4)} | ends


def test_random_masks_of_the_family_span_it_too_and_all_differ(spanned):
    found = spanned(20)
    drawn = [mask for name, mask in found.items() if name.startswith(RANDOM)]
    assert len(drawn) == 20
    assert {len(mask) for mask in drawn} == {2}
    assert len(set(found.values())) == len(found)


def test_a_family_of_few_masks_has_no_more_to_span_it(spanned):
    assert len(spanned(5, family="window", min_length=7)) == 3  # two of seven layers, and of eight, which is UNIF-ALL


def test_a_mask_that_spans_the_search_is_the_trial_that_its_suggestion_would_be(shape, fingerprints):
    space = make_space(search={"masks": {"family": "subset"}, "proxy": {"n_reference": 1, "epochs": 7}})
    (*_, random) = reference_masks(space, shape, fingerprints)
    params = Subset().params_of(tuple(map(Site.parse, random.sites)), shape)
    proposed = trial_of_suggestion(space, FixedTrial(params), shape, fingerprints)
    assert proposed.identity == random.identity
