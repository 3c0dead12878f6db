"""From a checkpoint to a table: score, store, print and log to MLflow."""

from collections.abc import Sequence
from pathlib import Path

from analysis.evaluation.harness import load_tasks, score_tasks
from analysis.evaluation.resident import make_resident
from analysis.evaluation.stored import EVALUATION, Evaluation, read_evaluation
from analysis.evaluation.tables import tasks_finding, texts_finding
from analysis.evaluation.text import cut_text, cuts_of, own_split, read_texts, score_text
from analysis.finding import Finding
from analysis.report.tables import HEAD, longtable, rows_table
from analysis.subject import check_repaired
from analysis.tracking import log_evaluation
from search_spaces.files import write_config
from trainables.cache import make_writable
from trainables.checkpoint import read_checkpoint

TABLES = "evaluation.tex"


def evaluate(
    source: Path,
    out: Path,
    tracking_uri: str,
    *,
    tasks: Sequence[str],
    limit: int | None,
    texts: Sequence[Path],
    n_windows: int,
    window: int | None,
    stride: int | None,
    add_bos: bool,
) -> None:
    """Score a checkpoint's three models, and write, print and log the results.

    New scores join those in the trial's file and replace scores of the same tasks and texts. Files go into the trial's
    folder in ``out``. Tasks are names or YAML files, with ``limit`` items each at most. Texts are files or directories,
    with ``n_windows`` windows each at most, cut as ``text.cuts_of`` says.

    Raises:
        SponError: if the checkpoint, its model, a task or a text is unusable, or ``out`` cannot be written.
    """
    checkpoint = read_checkpoint(source)
    check_repaired(checkpoint, "an evaluation")
    config = checkpoint.meta.config
    words, cuts = read_texts(texts), cuts_of(config, window, stride, add_bos)
    loaded = load_tasks(tasks, limit) if tasks else {}
    file = out / config.name / EVALUATION
    make_writable(file.parent)
    evaluation = read_evaluation(file) if file.exists() else Evaluation.of(config)
    resident = make_resident(checkpoint)
    windows = {name: cut_text(resident, name, text, cuts[-1], n_windows) for name, text in words.items()}
    if windows:
        found = (score for name, rows in windows.items() for score in score_text(resident, name, rows, cuts))
        evaluation = evaluation.having(texts=[own_split(checkpoint), *found])
    if loaded:
        evaluation = evaluation.having(tasks=score_tasks(resident, loaded, limit))
    write_config(evaluation, file)
    findings = [tasks_finding(evaluation.tasks)] if evaluation.tasks else []
    findings += [texts_finding(evaluation.texts)] if evaluation.texts else []
    latex = [longtable(rows_table(f), f"{f.title}, {evaluation.name}. {f.null}") for f in findings]
    table = file.with_name(TABLES)
    table.write_text("\n".join((HEAD, *latex)), encoding="utf-8")
    print(f"\n{evaluation.name} ({evaluation.plan})")
    for finding in findings:
        print(f"\n{rows_table(finding).to_string(index=False)}\n{finding.verdict}")
    print(f"\nscores of each item and piece of text: {file}")
    log_evaluation(tracking_uri, (file, table), evaluation.identity, metrics_of(findings))


def metrics_of(findings: Sequence[Finding]) -> dict[str, float]:
    """Return every number of the tables by its MLflow name, such as ``eval/arc_easy/acc/SPON - TEAL``."""
    found: dict[str, float] = {}
    for finding in findings:
        for row in finding.rows:
            names = "/".join(value for value in row.values() if isinstance(value, str))
            figures = {key: value for key, value in row.items() if isinstance(value, float)}
            found |= {f"eval/{names}/{key}": value for key, value in figures.items()}
    return found
