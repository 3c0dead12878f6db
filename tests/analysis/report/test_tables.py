import pytest

from analysis.report.stored import read_results
from analysis.report.tables import as_latex, as_text, escape_latex


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
