import pytest

from analysis.finding import Effect
from analysis.report.cells import effects_table, number, rows_table


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3.0, "3"), (12345.0, "12,345"), (0.123456, "0.1235"), (-2.5e-05, "-2.5e-05"), (0.0, "0")],
)
def test_a_number_without_an_interval_has_four_digits_or_is_whole(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "interval", "shown"),
    [
        (0.12345, (0.101, 0.149), ("0.123", "[0.101, 0.149]")),
        (0.5, (-0.21, 0.78), ("0.50", "[-0.21, 0.78]")),
        (1234.5, (1100.0, 1340.0), ("1234", "[1100, 1340]")),
        (0.25, (0.25, 0.25), ("0.25", "[0.25, 0.25]")),
        (-0.2, (-0.5, -0.001), ("-0.20", "[-0.50, 0.00]")),
    ],
)
def test_digits_are_those_that_the_interval_warrants(findings, value, interval, shown):
    effect = Effect(label="x", value=value, interval=interval)
    row = effects_table(findings["pca"].model_copy(update={"effects": (effect,)})).iloc[0]
    assert (row["value"], row["95% interval"]) == shown


@pytest.mark.parametrize(
    ("null", "shown"), [(None, ""), ((0.0, 0.0), "0"), ((0.0, 7.0), "[0, 7]"), ((-0.35, 0.36), "[-0.35, 0.36]")]
)
def test_a_null_is_nothing_a_value_or_a_range(findings, null, shown):
    effect = Effect(label="x", value=1, null=null)
    assert effects_table(findings["pca"].model_copy(update={"effects": (effect,)}))["null, 95%"].tolist() == [shown]


def test_rows_have_intervals_in_the_cells_of_their_figures(findings):
    rows = ({"site": "0.o_proj", "kl": 0.2, "kl_low": 0.11, "kl_high": 0.29, "sure": True, "none": None},)
    table = rows_table(findings["pca"].model_copy(update={"rows": rows}))
    assert table.to_dict("records") == [{"site": "0.o_proj", "kl": "0.20 [0.11, 0.29]", "sure": "yes", "none": ""}]


def test_rows_of_different_kinds_leave_cells_empty(findings):
    table = rows_table(findings["worth"])
    assert table["kl minus teal"].tolist()[:3] == ["", "", ""]
    assert table["kl taken off"].tolist()[3:] == [""] * 4
