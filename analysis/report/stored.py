"""The stored results of one directory."""

from dataclasses import dataclass
from pathlib import Path

from analysis.finding import ANALYSIS, COMPARED, Examined, Finding, read_analysis
from analysis.report.figures import DRAWINGS
from search_spaces.errors import SponError


@dataclass(frozen=True)
class Stored:
    """Stored findings on one trial, or on several in a comparison.

    Attributes:
        file: source of the findings.
        findings: in the order of the report.
    """

    file: Path
    subjects: tuple[Examined, ...]
    findings: tuple[Finding, ...]

    @property
    def compares(self) -> bool:
        """Whether this is a comparison of several trials."""
        return self.file.name == COMPARED

    @property
    def name(self) -> str:
        """Name of the trial, or ``Comparison``."""
        return "Comparison" if self.compares else self.subjects[0].name

    @property
    def figures(self) -> Path:
        """Directory of its figures."""
        return self.file.parent / "figures"


def read_results(directory: Path) -> list[Stored]:
    """Read all results of a directory: the trials by name, then their comparison.

    Raises:
        SponError: if there are none, or a file is broken or has an unknown finding.
    """
    files = [*sorted(directory.glob(f"*/{ANALYSIS}")), *directory.glob(COMPARED)]
    if not files:
        raise SponError(
            f"a directory of results must have NAME/{ANALYSIS} of `analysis interpret`, but got none (at {directory})"
        )
    return [_read(file) for file in files]


def _read(file: Path) -> Stored:
    analysis, known = read_analysis(file), list(DRAWINGS)
    for finding in analysis.findings:
        if finding.analysis not in known:
            raise SponError(f"a finding must be one of {', '.join(known)}, but got {finding.analysis!r} (at {file})")
    findings = sorted(analysis.findings, key=lambda finding: known.index(finding.analysis))
    return Stored(file, analysis.subjects, tuple(findings))
