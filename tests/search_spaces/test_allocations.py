import pytest

from search_spaces.allocations import is_named, measured_name, named_allocation, parse_allocation
from search_spaces.errors import SponError

DEPTHS = [16, 28, 30, 32]
DOWN = ("down_proj",)


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("UNIF-ALL", DOWN),
        ("ATTN-ONLY", ("o_proj",)),
        ("HYBRID-OD", ("o_proj", "down_proj")),
        ("HYBRID-QD", ("q_proj", "down_proj")),
    ],
)
@pytest.mark.parametrize("depth", DEPTHS)
def test_an_all_layer_allocation_has_every_layer_and_its_own_modules(name, modules, depth):
    assert named_allocation(name, depth) == (list(range(depth)), modules)


def test_the_baseline_has_no_layer_but_a_module_to_match():
    assert named_allocation("BASELINE-TEAL", 16) == ([], DOWN)


# Layer counts of the seed study's rule, worked out by hand: max(1, int(depth * fraction)).
@pytest.mark.parametrize(
    ("percent", "counts"),
    [(25, [4, 7, 7, 8]), (50, [8, 14, 15, 16]), (75, [12, 21, 22, 24])],
)
def test_top_is_the_early_layers_rounded_down_as_in_the_study(percent, counts):
    assert [named_allocation(f"TOP-{percent}", depth)[0] for depth in DEPTHS] == [list(range(n)) for n in counts]


@pytest.mark.parametrize(("depth", "first"), [(16, 8), (28, 14), (30, 15), (32, 16), (7, 4)])
def test_bottom_is_the_late_layers(depth, first):
    assert named_allocation("BOTTOM-50", depth)[0] == list(range(first, depth))


@pytest.mark.parametrize("depth", DEPTHS)
def test_adaptive_is_the_studys_other_name_for_top_75(depth):
    assert named_allocation("ADAPTIVE", depth) == named_allocation("TOP-75", depth)


@pytest.mark.parametrize(
    ("name", "depth", "first", "last"),
    [("MIDDLE", 16, 4, 11), ("MIDDLE-25", 28, 10, 16), ("MIDDLE", 30, 7, 21), ("MIDDLE-75", 32, 4, 27)],
)
def test_middle_leaves_as_much_before_as_after(name, depth, first, last):
    assert named_allocation(name, depth)[0] == list(range(first, last + 1))


@pytest.mark.parametrize(
    ("name", "depth", "layers"),
    [
        ("ALTERNATING", 16, [0, 2, 4, 6, 8, 10, 12, 14]),
        ("ALTERNATING", 30, list(range(0, 30, 2))),
        ("ALTERNATING-25", 28, [0, 4, 8, 12, 16, 20, 24]),
        ("ALTERNATING", 7, [0, 2, 4]),
        ("ALTERNATING-25", 30, [0, 4, 8, 12, 17, 21, 25]),
        ("ALTERNATING-33", 32, [0, 3, 6, 9, 12, 16, 19, 22, 25, 28]),
        ("ALTERNATING-40", 30, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27]),
    ],
)
def test_alternating_spreads_its_layers_over_the_whole_depth(name, depth, layers):
    assert named_allocation(name, depth)[0] == layers


@pytest.mark.parametrize("name", ["TOP-1", "BOTTOM-1", "MIDDLE-1", "ALTERNATING-1"])
def test_a_share_is_never_empty(name):
    assert len(named_allocation(name, 16)[0]) == 1


def test_random_draws_so_many_different_layers_in_order():
    layers, modules = named_allocation("RANDOM-8", 30)
    assert len(set(layers)) == 8
    assert layers == sorted(layers)
    assert set(layers) <= set(range(30))
    assert modules == DOWN


def test_random_is_the_same_for_the_same_seed():
    assert named_allocation("RANDOM-8", 30, seed=3) == named_allocation("RANDOM-8", 30, seed=3)


def test_random_differs_between_seeds():
    assert len({tuple(named_allocation("RANDOM-8", 30, seed=seed)[0]) for seed in range(5)}) == 5


@pytest.mark.parametrize("count", [0, 17])
def test_random_more_or_fewer_than_the_depth_is_refused(count):
    with pytest.raises(SponError, match=rf"1 <= k <= 16 .* RANDOM-{count} \(at allocations\)"):
        named_allocation(f"RANDOM-{count}", 16)


@pytest.mark.parametrize(
    "name", ["NOSUCH", "top-50", "TOP", "BOTTOM-", "RANDOM", "TOP-5.0", "TOP--5", "UNIF-ALL-50", "", "TOP-\u0665\u0660"]
)
def test_an_unknown_name_is_refused_with_those_that_exist(name):
    with pytest.raises(SponError, match=r"one of BASELINE-TEAL, .*-GUIDED.*, but got .* \(at allocations\)") as caught:
        named_allocation(name, 16)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(("name", "most"), [("TOP-0", 100), ("BOTTOM-101", 100), ("ALTERNATING-51", 50)])
def test_a_percent_out_of_range_is_refused(name, most):
    with pytest.raises(SponError, match=rf"1 <= p <= {most} percent, but got '{name}'"):
        named_allocation(name, 16)


@pytest.mark.parametrize(
    ("name", "parsed"),
    [("TOP-50", ("TOP", 50)), ("MIDDLE", ("MIDDLE", 50)), ("RANDOM-8", ("RANDOM", 8)), ("ADAPTIVE", ("ADAPTIVE", 75))],
)
def test_a_name_is_a_family_and_a_number(name, parsed):
    assert parse_allocation(name) == parsed


@pytest.mark.parametrize(
    ("name", "named"), [("TOP-50", True), ("UNIF-ALL", True), ("my-mask", False), ("TOP-x", False)]
)
def test_only_valid_names_are_taken(name, named):
    assert is_named(name) is named


@pytest.mark.parametrize(
    ("name", "parsed"),
    [("CORNERSTONE", ("CORNERSTONE", 0)), ("SHAPLEY-GUIDED-25", ("SHAPLEY-GUIDED", 25)), ("TOP-50", None), ("", None)],
)
def test_a_measured_name_has_a_percent_or_goes_to_the_elbow(name, parsed):
    assert measured_name(name) == parsed


@pytest.mark.parametrize("name", ["CORNERSTONE-0", "GRADIENT-101"])
def test_a_measured_percent_out_of_range_is_refused(name):
    with pytest.raises(ValueError, match=r"must have 1 <= p <= 100 percent"):
        measured_name(name)


def test_a_measured_allocation_has_no_layers_until_it_is_measured():
    with pytest.raises(SponError, match=r"GRADIENT must be measured first"):
        named_allocation("GRADIENT", 16)
