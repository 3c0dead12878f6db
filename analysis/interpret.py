"""From checkpoints to a report: examine them as Ray tasks, draw, log to MLflow, and print a summary."""

from collections.abc import Sequence
from pathlib import Path

from analysis.examine import COMPARISON, Settings
from analysis.finding import read_analysis
from analysis.jobs import run_jobs
from analysis.questions import cross
from analysis.report.publish import REPORT, publish
from analysis.tracking import log_results
from trainables.checkpoint import Checkpoint


def interpret(
    checkpoints: Sequence[Checkpoint], settings: Settings, out: Path, tracking_uri: str, address: str | None = None
) -> None:
    """Examine checkpoints and write all findings.

    Args:
        checkpoints: to examine; duplicates of a trial count once.
        settings: what to ask. The comparison is skipped if the checkpoints cannot be compared.
        out: directory of the results.
        tracking_uri: of MLflow.
        address: of a Ray cluster; Ray on this machine by default.

    Raises:
        SponError: if a checkpoint cannot be examined.
    """
    trials = list({checkpoint.meta.config.identity: checkpoint for checkpoint in checkpoints}.values())
    if COMPARISON in settings.only and (reason := cross.incomparable([trial.meta.config for trial in trials])):
        print(f"no comparison: {reason}")
        settings = settings.model_copy(update={"only": settings.questions})
    print(f"{len(trials)} checkpoints, {len(settings.only)} questions; results in {out}", flush=True)
    if settings.curse:
        print(f"note: {settings.curse}", flush=True)
    files = run_jobs(trials, settings, out, address)
    report = next(file for file in publish(out) if file.name == REPORT)
    log_results(tracking_uri, out)
    for file in files:
        analysis = read_analysis(file)
        print(f"\n{' and '.join(f'{s.name} ({s.plan})' for s in analysis.subjects)}")
        for finding in analysis.findings:
            print(f"  {finding.analysis:<12}{finding.verdict}")
    print(f"\nreport: {report}")
