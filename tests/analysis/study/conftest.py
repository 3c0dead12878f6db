from pathlib import Path

import pytest

from analysis.study.compare import StudyComparison, compare
from analysis.study.read import read_study
from analysis.study.trials import study_trials
from tests.analysis.study.fabricated import write_study

REAL = Path(__file__).parents[3].parent / "shared/data/spon-extension"


@pytest.fixture
def study_directory(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study")


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> StudyComparison:
    study = read_study(write_study(tmp_path_factory.mktemp("fabricated") / "study"))
    return compare(study, study_trials(study.results))


@pytest.fixture(scope="session")
def real_directory() -> Path:
    """The study's own results, where they lie beside the checkout."""
    if not REAL.is_dir():
        pytest.skip(f"the study's results are not at {REAL}")
    return REAL


@pytest.fixture(scope="session")
def real(real_directory: Path) -> StudyComparison:
    study = read_study(real_directory)
    return compare(study, study_trials(study.results))
