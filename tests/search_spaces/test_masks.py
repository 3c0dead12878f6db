from collections import Counter

import optuna
import pytest
from optuna.trial import FixedTrial

from search_spaces.errors import SponError
from search_spaces.masks import ExactlyK, LayerModuleBits, ModulePerLayer, Ranked, Subset, Window
from search_spaces.sites import Site, site_order

TWO = ("o_proj", "down_proj")
GAINS = {f"{layer}.{module}": (layer - 3.3) ** 2 + (module == "o_proj") for layer in range(8) for module in TWO}
RANKED = Ranked(modules=TWO, k=4, gains=GAINS)
FAMILIES = [
    Subset(),
    Subset(modules=TWO),
    ExactlyK(k=3),
    ExactlyK(k=3, modules=TWO),
    ExactlyK(k=5, modules=TWO, per="site"),
    ExactlyK(k=0),
    ExactlyK(k=8),
    Window(),
    Window(min_length=2, max_length=5, modules=TWO),
    Window(min_length=8),
    LayerModuleBits(modules=TWO),
    ModulePerLayer(modules=TWO),
    RANKED,
]


def draws(family, shape, count=200, seed=0):
    """Masks of so many random suggestions."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [family.suggest(study.ask(), shape) for _ in range(count)]


def obeys(family, mask):
    """Whether a mask is one of the family's, said in another way than the family does."""
    by_layer = {layer: [site.module for site in mask if site.layer == layer] for layer in {s.layer for s in mask}}
    whole = all(modules == list(family.modules) for modules in by_layer.values())
    match family:
        case Subset():
            return whole
        case ExactlyK(per="layer"):
            return whole and len(by_layer) == family.k
        case ExactlyK() | Ranked():
            return len(mask) == family.k and {site.module for site in mask} <= set(family.modules)
        case Window():
            layers = sorted(by_layer)
            right = family.min_length <= len(layers) <= (family.max_length or 8)
            return whole and right and layers == list(range(layers[0], layers[-1] + 1))
        case LayerModuleBits():
            return {site.module for site in mask} <= set(family.modules)
        case ModulePerLayer():
            return all(len(modules) == 1 and modules[0] in family.modules for modules in by_layer.values())


@pytest.fixture
def sites():
    """Reads sites written in one string."""
    return lambda text: tuple(Site.parse(site) for site in text.split())


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_family_proposes_its_own_masks_in_canonical_order_by_the_same_parameters(family, shape):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(100)]
    for trial in trials:
        mask = family.suggest(trial, shape)
        assert obeys(family, mask)
        assert list(mask) == sorted(set(mask), key=site_order)
        assert set(mask) <= set(shape.sites)
        assert trial.distributions == trials[0].distributions
        assert family is RANKED or list(family.params_of(mask, shape)) == list(trial.params)
        assert not any("/" in name for name in trial.params)  # a searcher would split it there


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (Subset(modules=TWO), "0.o_proj 0.down_proj 1.o_proj"),
        (Subset(), "0.o_proj"),
        (ExactlyK(k=2), "0.down_proj"),
        (ExactlyK(k=1, modules=TWO), "0.down_proj"),
        (ExactlyK(k=2, modules=TWO, per="site"), "0.o_proj 0.down_proj 3.o_proj"),
        (Window(), "0.down_proj 2.down_proj"),
        (Window(), ""),
        (Window(max_length=2), "0.down_proj 1.down_proj 2.down_proj"),
        (Window(min_length=2), "5.down_proj"),
        (LayerModuleBits(), "0.o_proj"),
        (ModulePerLayer(modules=TWO), "0.o_proj 0.down_proj"),
        (ModulePerLayer(modules=TWO), "0.q_proj"),
    ],
    ids=str,
)
def test_a_mask_that_a_family_cannot_express_has_no_parameters(family, text, sites, shape):
    assert family.params_of(sites(text), shape) is None


@pytest.mark.parametrize(
    ("family", "text", "params"),
    [
        (Subset(), "3.down_proj", {"03.down_proj": True, "04.down_proj": False}),
        (Subset(modules=("down_proj", "o_proj")), "3.o_proj 3.down_proj", {"03.o_proj+down_proj": True}),
        (LayerModuleBits(modules=TWO), "3.o_proj", {"03.o_proj": True, "03.down_proj": False}),
        (ModulePerLayer(modules=TWO), "3.o_proj", {"03": "o_proj", "04": "none"}),
        (Window(), "6.down_proj 7.down_proj", {"window.length": 2, "window.place": 7}),
        (Window(min_length=2), "0.down_proj 1.down_proj", {"window.length": 2, "window.place": 0}),
    ],
    ids=str,
)
def test_parameters_have_readable_names_and_values(family, text, params, sites, shape):
    assert params.items() <= family.params_of(sites(text), shape).items()


# Exactly k


def test_the_units_of_the_highest_grades_are_chosen(shape):
    grades = dict(zip((f"{layer:02d}.down_proj" for layer in range(8)), [0, 3, 1, 0, 2, 0, 1, 0], strict=True))
    mask = ExactlyK(k=2).suggest(FixedTrial({**grades, "exactly_k.ties": 5}), shape)
    assert [site.layer for site in mask] == [1, 4]


@pytest.mark.parametrize("begin", range(8))
def test_equal_grades_still_give_exactly_k(shape, begin):
    grades = {f"{layer:02d}.down_proj": 2 for layer in range(8)}
    family, trial = ExactlyK(k=3), FixedTrial({**grades, "exactly_k.ties": begin})
    assert len(family.suggest(trial, shape)) == 3


def test_random_suggestions_choose_every_layer_equally_often(shape):
    counts = Counter(site.layer for mask in draws(ExactlyK(k=2), shape, 2000) for site in mask)
    assert min(counts.values()) > 420  # of 500, with a standard deviation of 19
    assert max(counts.values()) < 580


@pytest.mark.parametrize("k", [0, 8])
def test_where_there_is_nothing_to_choose_nothing_is_asked_for(k, shape):
    trial = FixedTrial({})
    assert len(ExactlyK(k=k).suggest(trial, shape)) == k


# Windows


def test_every_window_can_be_proposed(shape):
    family = Window(min_length=2, max_length=5)
    every = [tuple(Site(layer, "down_proj") for layer in range(a, a + n)) for n in range(2, 6) for a in range(9 - n)]
    assert [mask for mask in every if family.params_of(mask, shape) is None] == []


def test_random_windows_of_one_length_start_about_equally_often(shape):
    masks = draws(Window(), shape, 4000)
    starts = Counter(mask[0].layer for mask in masks if len(mask) == 5)
    assert sorted(starts) == [0, 1, 2, 3]
    assert max(starts.values()) < 2.5 * min(starts.values())


# Validation


@pytest.mark.parametrize(
    ("family", "line"),
    [
        (ExactlyK(k=9), r"k must be in 0\.\.8 layers for this model, but got 9 \(at search\.masks\.k\)"),
        (Ranked(k=17, modules=TWO), r"k must be in 1\.\.16 sites for this model, but got 17"),
        (ExactlyK(k=17, modules=TWO, per="site"), r"0\.\.16 sites .* but got 17"),
        (Window(max_length=9), r"max_length <= 8 layers .* got min_length=1, max_length=9 \(at search\.masks\)"),
        (Window(min_length=9), r"got min_length=9, max_length=None"),
        (Window(min_length=3, max_length=2), r"got min_length=3, max_length=2"),
    ],
    ids=str,
)
def test_a_family_that_does_not_fit_the_model_is_refused(family, line, shape):
    with pytest.raises(SponError, match=line):
        draws(family, shape, 1)
    with pytest.raises(SponError, match=line):
        family.params_of((), shape)


@pytest.mark.parametrize("family", [Subset(), ExactlyK(k=1), Window(), LayerModuleBits(), ModulePerLayer()], ids=str)
def test_modules_that_the_model_does_not_have_are_refused(family, shape):
    bare = type(shape)(**{**vars(shape), "sites": {s: w for s, w in shape.sites.items() if s.module == "o_proj"}})
    with pytest.raises(SponError, match=r"no site 0\.down_proj .* has: o_proj \(at search\.masks\.modules\)"):
        draws(family, bare, 1)


@pytest.mark.parametrize(
    ("family", "size"),
    [
        (Subset(modules=TWO), 2**8),
        (LayerModuleBits(modules=TWO), 2**16),
        (ModulePerLayer(modules=TWO), 3**8),
        (Window(min_length=3, max_length=5), 3 * 6),
        (ExactlyK(k=2), 8 * 4**8),
        (ExactlyK(k=8), 1),
        (RANKED, 9 * 17**3),
    ],
    ids=str,
)
def test_a_grid_is_as_large_as_its_ranges_together(family, size, shape):
    assert family.grid_size(shape) == size


def weights(**given):
    return FixedTrial({"gain": 0.0, "depth": 0.0, "o_proj": 0.0, "down_proj": 0.0} | given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"gain": 1.0}, "0.o_proj 0.down_proj 7.o_proj 7.down_proj"),  # far from layer 3.3
        ({"depth": -1.0}, "0.o_proj 0.down_proj 1.o_proj 1.down_proj"),
        ({"depth": 1.0}, "6.o_proj 6.down_proj 7.o_proj 7.down_proj"),
        ({"down_proj": 1.0}, "0.down_proj 1.down_proj 6.down_proj 7.down_proj"),  # where all else is equal, by gain
        ({"gain": 1.0, "down_proj": 1.0}, "0.down_proj 1.down_proj 6.down_proj 7.down_proj"),
        ({"gain": 1.0, "depth": -1.0}, "0.o_proj 0.down_proj 1.o_proj 1.down_proj"),
    ],
    ids=str,
)
def test_sites_are_ranked_by_the_sum_of_what_counts(given, text, sites, shape):
    assert RANKED.suggest(weights(**given), shape) == sites(text)


@pytest.mark.parametrize("term", [{"gain": 1.0}, {"depth": -1.0}, {"depth": 1.0}, {"o_proj": 1.0}], ids=str)
def test_the_masks_of_one_term_can_be_proposed_first(term, shape):
    mask = RANKED.suggest(weights(**term), shape)
    assert RANKED.suggest(FixedTrial(RANKED.params_of(mask, shape)), shape) == mask


def test_only_the_order_of_the_gains_counts(shape):
    stretched = Ranked(modules=TWO, k=4, gains={site: 10 * gain**3 - 7 for site, gain in GAINS.items()})
    assert draws(stretched, shape) == draws(RANKED, shape)


@pytest.mark.parametrize("gains", [None, {"0.o_proj": 1.0}])
def test_masks_cannot_be_ranked_without_the_gain_of_each_site(gains, shape):
    with pytest.raises(SponError, match=r"gains must be those of the 16 sites of the masks, but got (none|1 others)"):
        Ranked(modules=TWO, k=4, gains=gains).suggest(weights(), shape)
