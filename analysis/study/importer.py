"""The one step behind ``python -m analysis import-study``."""

from pathlib import Path

from analysis.study.compare import compare
from analysis.study.figures import write_figures
from analysis.study.read import read_study
from analysis.study.tables import as_latex, as_text
from analysis.study.trials import study_trials, write_checkpoints
from trainables.cache import writable

COMPARISON = "study.json"


def import_study(directory: Path, out: Path) -> str:
    """Take over the study's checkpoints, compute its figures again, and write everything.

    Writes ``trials/NAME/checkpoint/`` for each checkpoint, ``study.json``, ``study.tex`` and the figures.

    Args:
        directory: of the study's committed results.
        out: directory of the results.

    Returns:
        The tables as text, and where the files are.

    Raises:
        SponError: if the study cannot be read or is not what it says it is, or ``out`` cannot be written.
    """
    study = read_study(directory)
    trials = study_trials(study.results)
    comparison = compare(study, trials)
    places = write_checkpoints(study, trials, out)
    with writable(out):
        (out / COMPARISON).write_text(comparison.model_dump_json(indent=1))
        (out / "study.tex").write_text(as_latex(comparison))
        write_figures(comparison, out)
    return "\n".join([as_text(comparison), "", *(f"checkpoint {place}" for place in places), f"the rest is in {out}"])
