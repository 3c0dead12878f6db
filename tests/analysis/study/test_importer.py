import json
from pathlib import Path

import pytest

from analysis.cli import main
from analysis.select import best_of_sweep, from_directories
from analysis.study.compare import StudyComparison
from analysis.study.importer import import_study
from search_spaces.errors import SponError


def test_everything_is_written(study_directory, tmp_path, capsys):
    out = tmp_path / "runs" / "study"
    assert main(["import-study", str(study_directory), "--out", str(out)]) == 0
    assert "sweep, test text" in capsys.readouterr().out
    assert len(list(out.glob("fig*"))) == 14
    assert "ATTN-ONLY" in (out / "study.tex").read_text()
    StudyComparison.model_validate_json((out / "study.json").read_text())
    assert len(from_directories(out.glob("trials/*/checkpoint"))) == 2


def test_an_imported_study_can_be_chosen_from_like_a_sweep(study_directory, tmp_path):
    import_study(study_directory, tmp_path / "study")
    (best,) = best_of_sweep(tmp_path, "study", top=1, by="test_ppl")
    assert best.meta.config.allocation == "UNIF-ALL"


def test_a_fault_is_one_line(tmp_path, capsys):
    assert main(["import-study", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: a study must hold results.json, but it is missing (at {tmp_path})\n"


def test_an_output_that_cannot_be_a_directory_is_refused(study_directory, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(SponError, match="writable"):
        import_study(study_directory, tmp_path / "out")


def test_nothing_is_written_for_a_study_that_cannot_be_read(study_directory, tmp_path):
    (study_directory / "pareto.json").write_text(json.dumps([{}]))
    with pytest.raises(SponError):
        import_study(study_directory, tmp_path / "out")
    assert not Path(tmp_path / "out").exists()
