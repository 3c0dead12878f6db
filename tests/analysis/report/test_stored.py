import pytest

from analysis.finding import read_analysis
from analysis.report.stored import read_results
from search_spaces.errors import SponError
from search_spaces.files import write_config


def test_trials_come_by_name_and_their_comparison_last_with_findings_in_the_order_of_the_report(results):
    stored = read_results(results)
    assert [one.name for one in stored] == ["alpha", "beta", "Comparison"]
    assert [finding.analysis for finding in stored[0].findings] == ["perplexity", "moments", "logits"]
    assert stored[1].figures == results / "beta" / "figures"
    assert [one.compares for one in stored] == [False, False, True]


def test_a_directory_without_results_is_named(tmp_path):
    with pytest.raises(SponError, match=r"must have NAME/analysis.json.*got none"):
        read_results(tmp_path / "nowhere")


def test_a_broken_file_is_named(results):
    (results / "beta" / "analysis.json").write_text('{"schema_version": 1}')
    with pytest.raises(SponError, match=r"subjects: Field required.*beta"):
        read_results(results)


def test_an_unknown_finding_is_named(results):
    file = results / "beta" / "analysis.json"
    analysis = read_analysis(file)
    other = analysis.findings[0].model_copy(update={"analysis": "astrology"})
    write_config(analysis.model_copy(update={"findings": (other,)}), file)
    with pytest.raises(SponError, match=r"'astrology'.*beta"):
        read_results(results)
