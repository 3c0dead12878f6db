import pytest

from search_spaces.allocations import MEASURED, is_named, named_allocation, parse_allocation
from search_spaces.errors import SponError

DEPTHS = [16, 28, 30, 32]
DOWN = ("down_proj",)


@pytest.mark.parametrize(
    ("name", "modules"),
    [("UNIF-ALL", DOWN), ("ATTN-ONLY", ("o_proj",)), ("HYBRID-OD", ("o_proj", "down_proj"))],
)
def test_an_all_layer_allocation_has_every_layer_and_its_own_modules(name, modules):
    assert named_allocation(name, 16) == (list(range(16)), modules)


def test_the_baseline_has_no_layer_but_a_module_to_match():
    assert named_allocation("BASELINE-TEAL", 16) == ([], DOWN)


# Layer counts of the seed study's rule, worked out by hand: max(1, int(depth * fraction)).
@pytest.mark.parametrize(
    ("percent", "counts"), [(1, [1, 1, 1, 1]), (25, [4, 7, 7, 8]), (50, [8, 14, 15, 16]), (75, [12, 21, 22, 24])]
)
def test_top_is_the_early_layers_rounded_down_as_in_the_study_and_bottom_as_many_late_ones(percent, counts):
    for depth, n in zip(DEPTHS, counts, strict=True):
        assert named_allocation(f"TOP-{percent}", depth) == (list(range(n)), DOWN)
        assert named_allocation(f"BOTTOM-{percent}", depth) == (list(range(depth - n, depth)), DOWN)


def test_adaptive_is_the_studys_other_name_for_top_75():
    assert named_allocation("ADAPTIVE", 30) == named_allocation("TOP-75", 30)


@pytest.mark.parametrize(
    ("name", "depth", "layers"),
    [
        ("MIDDLE", 16, list(range(4, 12))),
        ("MIDDLE-25", 28, list(range(10, 17))),
        ("MIDDLE", 30, list(range(7, 22))),
        ("ALTERNATING", 16, [0, 2, 4, 6, 8, 10, 12, 14]),
        ("ALTERNATING", 7, [0, 2, 4]),
        ("ALTERNATING-1", 16, [0]),
        ("ALTERNATING-25", 30, [0, 4, 8, 12, 17, 21, 25]),
        ("ALTERNATING-40", 30, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27]),
    ],
)
def test_middle_leaves_as_much_before_as_after_and_alternating_spreads_over_the_whole_depth(name, depth, layers):
    assert named_allocation(name, depth) == (layers, DOWN)


def test_random_draws_so_many_different_layers_in_order_by_its_seed():
    draws = [named_allocation("RANDOM-8", 30, seed)[0] for seed in (*range(5), 0)]
    assert all(len(set(layers)) == 8 and layers == sorted(layers) and layers[-1] < 30 for layers in draws)
    assert draws[0] == draws[-1]
    assert len({tuple(layers) for layers in draws}) == 5


@pytest.mark.parametrize("count", [0, 17])
def test_random_more_or_fewer_than_the_depth_is_refused(count):
    with pytest.raises(SponError, match=rf"1 <= k <= 16 .* RANDOM-{count} \(at allocations\)"):
        named_allocation(f"RANDOM-{count}", 16)


@pytest.mark.parametrize(
    "name",
    ["", "my-mask", "top-50", "TOP", "BOTTOM-", "RANDOM", "TOP-5.0", "TOP--5", "UNIF-ALL-50", "TOP-\u0665\u0660"],
)
def test_an_unknown_name_is_refused_with_those_that_exist(name):
    with pytest.raises(ValueError, match=r"one of BASELINE-TEAL, .*-GUIDED.*, but got ") as caught:
        parse_allocation(name)
    assert repr(name) in str(caught.value)
    assert not is_named(name)


@pytest.mark.parametrize(
    ("name", "most"),
    [("TOP-0", 100), ("BOTTOM-101", 100), ("ALTERNATING-51", 50), ("CORNERSTONE-0", 100), ("GRADIENT-101", 100)],
)
def test_a_percent_out_of_range_is_refused(name, most):
    with pytest.raises(ValueError, match=rf"1 <= p <= {most} percent, but got '{name}'"):
        parse_allocation(name)


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("TOP-50", ("TOP", 50)),
        ("MIDDLE", ("MIDDLE", 50)),
        ("RANDOM-8", ("RANDOM", 8)),
        ("ADAPTIVE", ("ADAPTIVE", 75)),
        ("CORNERSTONE", ("CORNERSTONE", 0)),
        ("SHAPLEY-GUIDED-25", ("SHAPLEY-GUIDED", 25)),
    ],
)
def test_a_name_is_a_family_and_a_number(name, parsed):
    assert parse_allocation(name) == parsed
    assert is_named(name)


@pytest.mark.parametrize("name", [*MEASURED, "GAIN-50"])
def test_a_measured_allocation_has_no_layers_until_it_is_measured(name):
    with pytest.raises(SponError, match=f"{name} must be measured first"):
        named_allocation(name, 16)
