"""From a checkpoint to a table: scored, stored, printed and logged to MLflow."""

from collections.abc import Sequence
from pathlib import Path

from analysis.evaluation.harness import load_tasks, score_tasks
from analysis.evaluation.resident import check_evaluable, make_resident
from analysis.evaluation.stored import EVALUATION, Evaluation, read_evaluation, write_evaluation
from analysis.evaluation.tables import tasks_finding
from analysis.finding import Finding
from analysis.report.cells import rows_table
from analysis.report.tables import HEAD, longtable
from analysis.tracking import log_evaluation
from trainables.checkpoint import read_checkpoint

TABLES = "evaluation.tex"


def evaluate(source: Path, tasks: Sequence[str], limit: int | None, out: Path, tracking_uri: str) -> None:
    """Score a checkpoint's three models, and write, print and log what is found.

    Scores are added to those that the trial's file has already; those of the same task are replaced.

    Args:
        source: directory of the checkpoint.
        tasks: names or YAML files of tasks.
        limit: items of each task at most.
        out: directory of results; the trial's folder in it is written.
        tracking_uri: of MLflow.

    Raises:
        SponError: if the checkpoint, its model or a task cannot be used.
    """
    checkpoint = read_checkpoint(source)
    check_evaluable(checkpoint)
    file = out / checkpoint.meta.config.name / EVALUATION
    known = read_evaluation(file) if file.exists() else Evaluation.of(checkpoint.meta.config)
    loaded = load_tasks(tasks, limit)
    resident = make_resident(checkpoint)
    evaluation = known.having(score_tasks(resident, loaded, limit))
    write_evaluation(evaluation, file)
    findings = findings_of(evaluation)
    table = file.with_name(TABLES)
    table.write_text(as_latex(evaluation, findings), encoding="utf-8")
    print(f"\n{evaluation.name} ({evaluation.plan})")
    for finding in findings:
        print(f"\n{rows_table(finding).to_string(index=False)}\n{finding.verdict}")
    print(f"\nscores of each item: {file}")
    log_evaluation(tracking_uri, (file, table), evaluation.identity, metrics_of(findings))


def findings_of(evaluation: Evaluation) -> list[Finding]:
    """The tables of everything that is stored."""
    return [tasks_finding(evaluation.tasks)] if evaluation.tasks else []


def as_latex(evaluation: Evaluation, findings: Sequence[Finding]) -> str:
    """The same tables for LaTeX."""
    captions = [f"{finding.title}, {evaluation.name}. {finding.null}" for finding in findings]
    tables = (longtable(rows_table(f), caption) for f, caption in zip(findings, captions, strict=True))
    return "\n".join((HEAD, *tables))


def metrics_of(findings: Sequence[Finding]) -> dict[str, float]:
    """Every number of the tables by a name that MLflow takes, such as ``eval/arc_easy/acc/SPON - TEAL``."""
    found: dict[str, float] = {}
    for finding in findings:
        for row in finding.rows:
            names = "/".join(value for value in row.values() if isinstance(value, str))
            figures = {key: value for key, value in row.items() if isinstance(value, float)}
            found |= {f"eval/{names}/{key}": value for key, value in figures.items()}
    return found
