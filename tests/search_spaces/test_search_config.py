import pytest

from search_spaces.errors import SponError
from search_spaces.load import parse_space
from search_spaces.masks import ExactlyK, Subset
from search_spaces.schema import SpaceConfig
from search_spaces.search_config import EvolutionConfig, Nsga2, Tpe

TWO = ["o_proj", "down_proj"]


def space(search, **changes):
    return parse_space({"name": "s", "sparsity": [0.5], "allocations": ["TOP-50"], "search": search, **changes}, "here")


def subset(**changes):
    return {"masks": {"family": "subset"}, **changes}


def exact(**changes):
    return {"masks": {"family": "exactly_k", "k": 4}, **changes}


@pytest.fixture
def fault():
    """The line with which a search is refused."""

    def line(search, **changes):
        with pytest.raises(SponError) as caught:
            space(search, **changes)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return line


def test_a_search_needs_only_a_family_of_masks():
    search = space(subset()).search
    assert (search.masks, search.algorithm, search.objectives) == (Subset(), Tpe(), ("val_kl_nats",))


def test_a_space_without_a_search_has_none():
    assert parse_space({"name": "s", "sparsity": [0.5], "allocations": ["TOP-50"]}, "here").search is None


@pytest.mark.parametrize("algorithm", ["nsga2", {"name": "nsga2"}])
def test_an_algorithm_may_be_its_bare_name(algorithm):
    assert space(subset(algorithm=algorithm)).search.algorithm == Nsga2()


def test_families_and_algorithms_are_chosen_by_their_tag():
    search = space(exact(algorithm={"name": "evolution", "stages": [1, 2]})).search
    assert (search.masks, search.algorithm) == (ExactlyK(k=4), EvolutionConfig(stages=(1, 2)))


def test_a_space_with_a_search_survives_being_written_and_read():
    search = exact(
        lr={"low": 1e-4, "high": 1e-2}, max_steps={"low": 1, "high": 9}, sparsity=[0.5, 0.6], levels={}, n_masks=3
    )
    config = space(search | {"plan_modules": [["down_proj"], TWO], "constraint": {"max_params": 9}})
    assert SpaceConfig.model_validate_json(config.model_dump_json()) == config


def test_modules_are_kept_in_the_order_of_the_forward_pass():
    search = space(subset(masks={"family": "subset", "modules": TWO[::-1]}, plan_modules=[TWO[::-1]])).search
    assert (search.masks.modules, search.plan_modules) == (tuple(TWO), (tuple(TWO),))


@pytest.mark.parametrize(
    ("search", "parts"),
    [
        (subset(masks={"family": "shapes"}), ["one of 'subset', 'exactly_k',", "'shapes' (at search.masks.family in"]),
        (subset(masks={"k": 1}), ["the key 'family' must be given, but got", "(at search.masks in"]),
        (subset(masks="subset"), ["must be a mapping of keys, but got 'subset'", "(at search.masks in"]),
        (subset(algorithm="bohb"), ["one of 'tpe', 'nsga2',", "'bohb' (at search.algorithm.name in"]),
        (subset(masks={"family": "exactly_k"}), ["a key that has no default", "(at search.masks.k in"]),
        (exact(masks={"family": "exactly_k", "k": -1}), ["greater than or equal to 0, but got -1", "masks.k in"]),
        (
            subset(masks={"family": "window", "length": 2}),
            ["a key must be one of modules, family, min_length, max_length, but got", "(at search.masks.length in"],
        ),
        (subset(algorithm={"name": "tpe", "liar": 1}), ["one of name, multivariate,", "(at search.algorithm.liar in"]),
        (subset(masks={"family": "subset", "modules": ["fc1"]}), ["'q_proj',", "got 'fc1' (at search.masks.modules.0"]),
        (subset(masks={"family": "subset", "modules": []}), ["at least one module and", "[] (at search.masks.modules"]),
        ({}, ["a key that has no default must be given", "(at search.masks in"]),
        (subset(budget=1), ["one of masks, constraint, algorithm,", "(at search.budget in"]),
        (subset(constraint={"max_params": 0}), ["greater than or equal to 1", "(at search.constraint.max_params in"]),
        (subset(objectives=["n_spon_params"]), ["[val_kl_nats, n_spon_params], but got [n_spon_params]"]),
        (subset(objectives=[]), ["objectives must be [val_kl_nats] or", "but got []"]),
        (subset(lr={"low": 1, "high": 1}), ["low < high must hold, but got (low=1.0, high=1.0) (at search.lr in"]),
        (subset(max_steps={"low": 9, "high": 3}), ["but got (low=9, high=3) (at search.max_steps in"]),
        (subset(sparsity=[]), ["choices of sparsity must be at least one", "(at search.sparsity in"]),
        (subset(sparsity=[0.5, 0.5]), ["each once, but got [0.5, 0.5]"]),
        (subset(plan_modules=[]), ["choices of plan_modules must be at least one", "(at search.plan_modules in"]),
        (subset(plan_modules=[[]]), ["a choice of plan_modules must name at least one module", "got []"]),
        (subset(plan_modules=[TWO, TWO[::-1]]), ["each once, but got [['o_proj', 'down_proj'], ['down"]),
        (subset(levels={"spread": 0}), ["greater than 0", "(at search.levels.spread in"]),
        (subset(algorithm="evolution"), ["evolution must have exactly_k masks,", "got subset with val_kl_nats"]),
        (exact(algorithm="evolution", lr={"low": 1, "high": 2}), ["no ranges, but got exactly_k with lr, val_kl"]),
        (
            exact(algorithm="evolution", objectives=["val_kl_nats", "n_spon_params"]),
            ["one objective", "with val_kl_nats, n_spon_params"],
        ),
        (exact(algorithm={"name": "evolution", "stages": [4, 4]}), ["more blocks each than the one before", "[4, 4]"]),
        (
            exact(algorithm={"name": "evolution", "offspring": 2}),
            ["(population_size=4, offspring=2) (at search.algorithm "],
        ),
        (subset(algorithm="grid", levels={}), ["a grid must have no real-valued parameter, but got levels"]),
    ],
    ids=str,
)
def test_a_fault_of_a_search_is_one_line_with_the_path_that_the_user_wrote(fault, search, parts):
    line = fault(search)
    assert [part for part in parts if part not in line] == []


@pytest.mark.parametrize(
    ("search", "changes", "said"),
    [
        (subset(), {"sparsity": [0.5, 0.6]}, "one sparsity, or search.sparsity, but got sparsity=[0.5, 0.6]"),
        (
            subset(masks={"family": "subset", "modules": TWO}),
            {},
            "must list plan.modules, but got plan.modules=matched with masks of o_proj, down_proj",
        ),
        (subset(levels={}), {"plan": {"levels": {"0.down_proj": 0.1}}}, "either searched or given"),
        (subset(levels={}), {"sparsity": [0.97]}, "0 < sparsity <= 0.95, but got 0.97"),
        (subset(levels={}, sparsity=[0.5, 0.0]), {}, "0 < sparsity <= 0.95, but got 0.0"),
        (
            exact(algorithm="evolution"),
            {"corpus": {"blocks": {"validation": 31}}},
            "stages=[4, 16, 32], corpus.blocks.validation=31",
        ),
    ],
    ids=str,
)
def test_a_search_that_contradicts_its_space_is_refused(fault, search, changes, said):
    assert said in fault(search, **changes)


def test_choices_of_sparsity_replace_the_levels_of_the_space():
    assert space(subset(sparsity=[0.5, 0.6]), sparsity=[0.4, 0.5]).search.sparsity == (0.5, 0.6)
