import pytest

from analysis.finding import Effect
from analysis.report.stored import read_results
from analysis.report.tables import as_latex, as_text, effects_row, escape_latex, number, rows_table


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 5%", r"a\_b \& 5\%"),
        ("$x^2$ {~}", r"\$x\textasciicircum{}2\$ \{\textasciitilde{}\}"),
        ("\\n#", r"\textbackslash{}n\#"),
        ("ζ量", r"\textbackslash{}u03b6\textbackslash{}u91cf"),
        ("[-0.5, 0.5] TOP-50 -3", "[$-$0.5, 0.5] TOP-50 $-$3"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_is_escaped(text, escaped):
    assert escape_latex(text) == escaped


def test_latex_has_the_effects_and_the_rows_of_every_finding(results):
    latex = as_latex(read_results(results))
    assert latex.count(r"\begin{longtable}") == latex.count(r"\end{longtable}") == 2 * 5
    assert "<script>alert('\\&')</script> 5\\% of \\$x\\_1\\$" in latex
    assert r"share of the KL recovered & 0.50 & [0.25, 0.75]" in latex
    assert r"2.down\_proj & 2 & 1 &" in latex


def test_text_names_trial_question_and_verdict(results):
    text = as_text(read_results(results))
    assert text.index("alpha  On perplexity") < text.index("beta  On where") < text.index("Comparison  On cross")
    assert "so it is" in text


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
def test_digits_are_those_that_the_interval_warrants(value, interval, shown):
    assert effects_row(Effect(label="x", value=value, interval=interval))[1:3] == shown


@pytest.mark.parametrize(
    ("null", "shown"), [(None, ""), ((0.0, 0.0), "0"), ((0.0, 7.0), "[0, 7]"), ((-0.35, 0.36), "[-0.35, 0.36]")]
)
def test_a_null_is_nothing_a_value_or_a_range(null, shown):
    assert effects_row(Effect(label="x", value=1, null=null)) == ("x", "1", "", shown, "")


def test_rows_have_intervals_in_the_cells_of_their_figures(findings):
    rows = ({"site": "0.o_proj", "kl": 0.2, "kl_low": 0.11, "kl_high": 0.29, "sure": True, "none": None},)
    table = rows_table(findings["pca"].model_copy(update={"rows": rows}))
    assert table.to_dict("records") == [{"site": "0.o_proj", "kl": "0.20 [0.11, 0.29]", "sure": "yes", "none": ""}]


def test_rows_of_different_kinds_leave_cells_empty(findings):
    table = rows_table(findings["worth"])
    assert table["kl minus teal"].tolist()[:3] == ["", "", ""]
    assert table["kl taken off"].tolist()[3:] == [""] * 4
