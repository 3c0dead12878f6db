from analysis.study.compare import StudyComparison
from analysis.study.compared import Compared


def test_figures_agree_when_they_read_the_same():
    assert Compared(study=0.12349, ours=0.12311).agrees(".3f")
    assert not Compared(study=0.12349, ours=0.12311).agrees(".4f")
    assert not Compared(study=None, ours=0.1).agrees(".3f")


def test_a_comparison_comes_back_from_its_file(comparison):
    assert StudyComparison.model_validate_json(comparison.model_dump_json()) == comparison


def test_only_the_analysed_checkpoint_has_figures_of_the_study(comparison):
    assert set(comparison.biases) == {comparison.analysed, comparison.other}
    assert all(row.norm.study is not None for row in comparison.biases[comparison.analysed])
    assert all(row.norm.study is None for row in comparison.biases[comparison.other])
