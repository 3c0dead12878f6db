import pytest

from search_spaces.config import Asha, ConfirmConfig, Nsga2, ProxyConfig, SpaceConfig, Tpe
from search_spaces.errors import SponError
from search_spaces.load import parse_space
from search_spaces.masks import ExactlyK, Subset

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
    search = space(exact(algorithm={"name": "tpe", "n_startup_trials": 9})).search
    assert (search.masks, search.algorithm) == (ExactlyK(k=4), Tpe(n_startup_trials=9))


@pytest.mark.parametrize(
    ("given", "stopping"),
    [
        ("asha", Asha()),
        ({"name": "asha", "reduction_factor": 3}, Asha(reduction_factor=3)),
    ],
    ids=str,
)
def test_stopping_is_chosen_by_its_tag_or_bare_name(given, stopping):
    assert space(subset(stopping=given)).search.stopping == stopping


def test_a_search_trains_every_mask_to_its_end_and_is_confirmed_unless_it_says_otherwise():
    search = space(subset()).search
    assert (search.proxy, search.stopping, search.confirm) == (None, None, ConfirmConfig())


def test_a_proxy_of_several_rungs_has_stopping():
    search = space(subset(proxy={"rungs": [4, 16]}, stopping="asha")).search
    assert (search.proxy, search.stopping) == (ProxyConfig(rungs=(4, 16)), Asha())


def test_the_last_rung_may_be_all_of_validation():
    assert space(subset(proxy={"rungs": [32]}), corpus={"blocks": {"validation": 32}}).search.proxy.rungs == (32,)


def test_a_space_with_a_search_survives_being_written_and_read():
    config = space(exact(n_masks=3, algorithm={"name": "nsga2"}, objectives=["val_kl_nats", "n_spon_params"]))
    assert SpaceConfig.model_validate_json(config.model_dump_json()) == config


def test_the_stages_of_a_search_survive_being_written_and_read():
    config = space(subset(proxy={"rungs": [4, 16], "n_reference": 2}, stopping="asha", confirm={"seeds": [5]}))
    assert SpaceConfig.model_validate_json(config.model_dump_json()) == config


def test_modules_are_kept_in_the_order_of_the_forward_pass():
    search = subset(masks={"family": "subset", "modules": TWO[::-1]})
    assert space(search, plan={"modules": TWO}).search.masks.modules == tuple(TWO)


@pytest.mark.parametrize(
    ("search", "parts"),
    [
        (subset(masks={"family": "shapes"}), ["one of 'subset', 'exactly_k',", "'shapes' (at search.masks.family in"]),
        (subset(masks={"k": 1}), ["the key 'family' must be given, but got", "(at search.masks in"]),
        (subset(masks="subset"), ["must be a mapping of keys, but got 'subset'", "(at search.masks in"]),
        (subset(algorithm="bohb"), ["one of 'tpe', 'nsga2',", "'bohb' (at search.algorithm.name in"]),
        (subset(masks={"family": "exactly_k"}), ["a key without a default", "(at search.masks.k in"]),
        (exact(masks={"family": "exactly_k", "k": -1}), ["greater than or equal to 0, but got -1", "masks.k in"]),
        (
            subset(masks={"family": "window", "length": 2}),
            ["a key must be one of modules, family, min_length, max_length, but got", "(at search.masks.length in"],
        ),
        (
            subset(algorithm={"name": "tpe", "liar": 1}),
            ["name, n_startup_trials, but got", "(at search.algorithm.liar in"],
        ),
        (subset(masks={"family": "subset", "modules": ["fc1"]}), ["'q_proj',", "got 'fc1' (at search.masks.modules.0"]),
        (subset(masks={"family": "subset", "modules": []}), ["at least one module and", "[] (at search.masks.modules"]),
        ({}, ["a key without a default must be given", "(at search.masks in"]),
        (subset(budget=1), ["one of masks, algorithm, objectives,", "(at search.budget in"]),
        (subset(objectives=["n_spon_params"]), ["[val_kl_nats, n_spon_params], but got [n_spon_params]"]),
        (subset(objectives=[]), ["objectives must be [val_kl_nats] or", "but got []"]),
        (subset(lr={"low": 1, "high": 2}), ["'lr'; only masks are searched (at search.lr in"]),
        (subset(sparsity=[0.5]), ["'sparsity'; a search has the one sparsity of its space (at search.sparsity in"]),
        (subset(proxy={"n_warm": 2}), ["'n_warm'; masks are no longer trained a second time: leave the key out (at"]),
        (
            subset(proxy={"rung": 4}),
            [
                "one of rungs, epochs, n_train, n_reference,",
                "got 'rung'; did you mean 'rungs'? (at search.proxy.rung in",
            ],
        ),
        (subset(proxy={"rungs": [4, 4]}), ["each rung must have more blocks than", "[4, 4] (at search.proxy in"]),
        (
            subset(proxy={"rungs": [4, 8]}),
            ["stopping exactly when it has several rungs, but got rungs=[4, 8], stopping=None (at search in"],
        ),
        (subset(proxy={}, stopping="asha"), ["several rungs, but got rungs=[16], stopping=asha (at search in"]),
        (subset(stopping="median"), ["must be 'asha', but got 'median' (at search.stopping"]),
        (
            subset(stopping={"name": "asha", "reduction_factor": 0}),
            ["but got 0 (at search.stopping.reduction_factor in"],
        ),
        (
            subset(stopping={"name": "asha", "grace": 1}),
            ["one of name, reduction_factor, but got 'grace' (at search.stopping.grace in"],
        ),
        (subset(stopping={"name": "asha", "grace_period": 1}), ["'grace_period'; the first decision is after"]),
        (subset(algorithm={"name": "tpe", "multivariate": True}), ["'multivariate'; TPE always models"]),
        (subset(proxy={"rungs": []}), ["at least 1 item", "but got [] (at search.proxy.rungs in"]),
        (subset(proxy={"rungs": [0]}), ["but got 0 (at search.proxy.rungs.0 in"]),
        (subset(proxy={"n_train": 0}), ["but got 0 (at search.proxy.n_train in"]),
        (subset(confirm={"seeds": []}), ["at least 1 item", "but got [] (at search.confirm.seeds in"]),
        (subset(confirm={"n_random": -1}), ["but got -1 (at search.confirm.n_random in"]),
        (subset(confirm={"seeds": [1, 1]}), ["a seed must be listed once, but got [1, 1] (at search.confirm.seeds in"]),
        (subset(confirm={"controls": 1}), ["one of seeds, n_chosen, n_random, but got", "search.confirm.controls in"]),
    ],
    ids=str,
)
def test_a_fault_of_a_search_is_one_line_with_the_path_that_the_user_wrote(fault, search, parts):
    line = fault(search)
    assert [part for part in parts if part not in line] == []


@pytest.mark.parametrize(
    ("search", "changes", "said"),
    [
        (subset(), {"sparsity": [0.5, 0.6]}, "one sparsity and one way to spread it, but got sparsity=[0.5, 0.6]"),
        (
            subset(masks={"family": "subset", "modules": TWO}),
            {},
            "must list plan.modules, but got plan.modules=matched with masks of o_proj, down_proj",
        ),
        (
            subset(masks={"family": "subset", "modules": TWO}),
            {"plan": {"modules": TWO, "levels": ["uniform", "fisher"]}},
            "one way to spread it, but got sparsity=[0.5], plan.levels=['uniform', 'fisher']",
        ),
        (
            subset(proxy={"rungs": [4, 16, 32]}, stopping="asha"),
            {"corpus": {"blocks": {"validation": 31}}},
            "must not exceed the validation blocks, but got rungs=[4, 16, 32], corpus.blocks.validation=31",
        ),
        (
            subset(confirm={"seeds": [8, 7]}),
            {"seeds": [7, 9]},
            "must not use the seed that chooses the masks, but got seeds=[7, 9], search.confirm.seeds=[8, 7]",
        ),
    ],
    ids=str,
)
def test_a_search_that_contradicts_its_space_is_refused(fault, search, changes, said):
    assert said in fault(search, **changes)


def test_a_seed_that_does_not_choose_may_confirm():
    assert space(subset(confirm={"seeds": [9]}), seeds=[7, 9]).search.confirm.seeds == (9,)
