import json
import subprocess
import sys
from shutil import rmtree

import pytest

from analysis.cli import main
from analysis.finding import Analysis
from analysis.report.figures import draw_together
from analysis.report.publish import publish
from search_spaces.errors import SponError
from search_spaces.files import write_config
from tests.analysis.report.conftest import subject


def test_figures_lie_beside_their_results_and_the_report_above_them(results):
    files = publish(results)
    assert {str(file.relative_to(results)) for file in files} == {
        *(f"alpha/figures/{name}.{kind}" for name in ("perplexity", "moments", "logits") for kind in ("png", "svg")),
        "beta/figures/where.png",
        "beta/figures/where.svg",
        "figures/cross.png",
        "figures/cross.svg",
        "report.html",
        "tables.tex",
    }
    assert all(file.stat().st_size > 1000 for file in files)


def test_only_curves_on_the_same_text_share_a_figure(findings, tmp_path, monkeypatch):
    drawn = {}

    def draw(shifts, text):
        drawn[text] = list(shifts)
        return draw_together(shifts, text)

    monkeypatch.setattr("analysis.report.publish.draw_together", draw)
    texts = {"a": ("test", 8), "b": ("validation", 8), "c": ("validation", 8), "d": ("validation", 4)}
    for name, (split, n_blocks) in texts.items():
        examined = subject(name).model_copy(update={"split": split, "n_blocks": n_blocks, "corpus": "own"})
        write_config(Analysis(subjects=(examined,), findings=(findings["shift"],)), tmp_path / name / "analysis.json")
    assert tmp_path / "figures" / "trials.png" in publish(tmp_path)
    assert drawn == {"8 validation blocks of own": ["b", "c"]}
    drawn.clear()
    rmtree(tmp_path / "c")
    assert tmp_path / "figures" / "trials.png" not in publish(tmp_path)
    assert drawn == {}


def test_a_fault_in_the_rows_names_the_file(results):
    rmtree(results / "alpha")
    file = results / "beta" / "analysis.json"
    raw = json.loads(file.read_text())
    for row in raw["findings"][0]["rows"]:
        del row["bin"]
    file.write_text(json.dumps(raw))
    with pytest.raises(SponError, match=r"column bin.*\(at where\) \(at .*beta/analysis.json\)"):
        publish(results)


def test_stored_results_need_no_torch_and_no_ray(results):
    rmtree(results / "alpha")
    code = (
        "import sys, pathlib; from analysis.report.publish import publish; publish(pathlib.Path(sys.argv[1]));"
        "print({'torch', 'ray', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(results)], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_figures_draws_everything_again(results, capsys):
    assert main(["figures", str(results)]) == 0
    assert (results / "report.html").exists()
    assert "10 files of figures" in capsys.readouterr().out


def test_tables_prints_text_or_latex(results, capsys):
    assert main(["tables", str(results)]) == 0
    assert "alpha  On perplexity" in capsys.readouterr().out
    assert main(["tables", str(results), "--latex"]) == 0
    assert r"\begin{longtable}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["figures", "tables"])
def test_a_directory_without_results_is_one_line(tmp_path, capsys, command):
    assert main([command, str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
