"""From a checkpoint to a table: score, store, print and log to MLflow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.evaluation.harness import load_tasks, score_tasks
from analysis.evaluation.resident import make_resident
from analysis.evaluation.stored import EVALUATION, Evaluation, read_evaluation
from analysis.evaluation.tables import tasks_finding, texts_finding
from analysis.evaluation.text import cut_text, cuts_of, own_split, read_texts, score_text
from analysis.finding import Finding
from analysis.report.cells import rows_table
from analysis.report.tables import HEAD, longtable
from analysis.subject import check_repaired
from analysis.tracking import log_evaluation
from search_spaces.files import write_config
from trainables.cache import make_writable
from trainables.checkpoint import read_checkpoint

TABLES = "evaluation.tex"


@dataclass(frozen=True)
class Asked:
    """What to score.

    Attributes:
        tasks: names or YAML files of tasks.
        limit: maximum items of each task.
        texts: files or directories of text.
        n_windows: maximum windows of each text.
        window, stride, add_bos: how to cut text in addition to the trial's blocks (``text.Cut``).
    """

    tasks: tuple[str, ...] = ()
    limit: int | None = None
    texts: tuple[Path, ...] = ()
    n_windows: int = 64
    window: int | None = None
    stride: int | None = None
    add_bos: bool = False


def evaluate(source: Path, asked: Asked, out: Path, tracking_uri: str) -> None:
    """Score a checkpoint's three models, and write, print and log the results.

    New scores join those in the trial's file and replace scores of the same tasks and texts.

    Args:
        source: directory of the checkpoint.
        asked: what to score.
        out: directory of results; files go into the trial's folder there.
        tracking_uri: of MLflow.

    Raises:
        SponError: if the checkpoint, its model, a task or a text is unusable, or ``out`` cannot be written.
    """
    checkpoint = read_checkpoint(source)
    check_repaired(checkpoint, "an evaluation")
    config = checkpoint.meta.config
    texts, cuts = read_texts(asked.texts), cuts_of(config, asked.window, asked.stride, asked.add_bos)
    tasks = load_tasks(asked.tasks, asked.limit) if asked.tasks else {}
    file = out / config.name / EVALUATION
    make_writable(file.parent)
    evaluation = read_evaluation(file) if file.exists() else Evaluation.of(config)
    resident = make_resident(checkpoint)
    windows = {name: cut_text(resident, name, text, cuts[-1], asked.n_windows) for name, text in texts.items()}
    if windows:
        found = (score for name, rows in windows.items() for score in score_text(resident, name, rows, cuts))
        evaluation = evaluation.having(texts=[own_split(checkpoint), *found])
    if tasks:
        evaluation = evaluation.having(tasks=score_tasks(resident, tasks, asked.limit))
    write_config(evaluation, file)
    findings = findings_of(evaluation)
    table = file.with_name(TABLES)
    table.write_text(as_latex(evaluation, findings), encoding="utf-8")
    print(f"\n{evaluation.name} ({evaluation.plan})")
    for finding in findings:
        print(f"\n{rows_table(finding).to_string(index=False)}\n{finding.verdict}")
    print(f"\nscores of each item and piece of text: {file}")
    log_evaluation(tracking_uri, (file, table), evaluation.identity, metrics_of(findings))


def findings_of(evaluation: Evaluation) -> list[Finding]:
    """Make the tables of all stored scores."""
    tasks = [tasks_finding(evaluation.tasks)] if evaluation.tasks else []
    return [*tasks, texts_finding(evaluation.texts)] if evaluation.texts else tasks


def as_latex(evaluation: Evaluation, findings: Sequence[Finding]) -> str:
    """Render the same tables as LaTeX."""
    tables = (longtable(rows_table(f), f"{f.title}, {evaluation.name}. {f.null}") for f in findings)
    return "\n".join((HEAD, *tables))


def metrics_of(findings: Sequence[Finding]) -> dict[str, float]:
    """Return every number of the tables by its MLflow name, such as ``eval/arc_easy/acc/SPON - TEAL``."""
    found: dict[str, float] = {}
    for finding in findings:
        for row in finding.rows:
            names = "/".join(value for value in row.values() if isinstance(value, str))
            figures = {key: value for key, value in row.items() if isinstance(value, float)}
            found |= {f"eval/{names}/{key}": value for key, value in figures.items()}
    return found
