"""Examines checkpoints as Ray tasks, each with its own model, and writes each finding to disk as it arrives."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from analysis.examine import COMPARISON, Settings, examine, examined, subject_of
from analysis.finding import ANALYSIS, COMPARED, Analysis, Finding, read_analysis
from analysis.questions import cross, worth
from analysis.subject import Trained
from search_spaces.errors import SponError
from search_spaces.files import write_config
from trainables.cache import make_writable
from trainables.checkpoint import Checkpoint
from trainables.ray_trainable import connect_ray

_BEAT_SECONDS = 30.0
_PASSES = {"perplexity": 3, "shift": 9, "where": 2, "categories": 3, "worth": 11, "levels": 6}
"""Approximate work of a question in forward passes over the text; others take one. Only for the time estimate."""


def run_jobs(
    checkpoints: Sequence[Checkpoint], settings: Settings, out: Path, address: str | None = None
) -> list[Path]:
    """Examine checkpoints, one task each, and then compare them.

    Questions already answered on the same text are skipped, so a stopped run can continue.

    Args:
        checkpoints: of one model or several.
        settings: what to ask.
        out: directory of the results; each checkpoint gets a folder with its trial's name.
        address: of a Ray cluster; by default Ray on this machine, started only if there are questions to ask.

    Returns:
        The files with the answers: one for each checkpoint with findings, and that of the comparison.

    Raises:
        SponError: if ``out`` cannot be written, the cluster does not answer, or a checkpoint cannot be examined; other
            findings are kept.
    """
    files = [out / checkpoint.meta.config.name / ANALYSIS for checkpoint in checkpoints]
    for directory in (out, *(file.parent for file in files)):
        make_writable(directory)
    known = [_known(checkpoint, settings, file) for checkpoint, file in zip(checkpoints, files, strict=True)]
    compare = COMPARISON in settings.only
    asked: dict[int, list[str]] = {}
    for index, before in enumerate(known):
        answered = {finding.analysis for finding in before.findings}
        missing = [question for question in settings.questions if question not in answered]
        if missing or compare:
            asked[index] = missing
    progress = _Progress([(checkpoints[i], q) for i, questions in asked.items() for q in questions], settings.n_blocks)
    trained: dict[int, Trained] = {}
    for index, result in _results(checkpoints, settings, asked, address):
        if result is None:
            progress.beat()
        elif isinstance(result, Finding):
            known[index] = known[index].having([result])
            write_config(known[index], files[index])
            progress.done(checkpoints[index].meta.config.name, result.analysis)
        else:
            trained[index] = result
    written = [file for file, analysis in zip(files, known, strict=True) if analysis.findings]
    if compare:
        finding = cross.find([trained[index] for index in range(len(checkpoints))])
        subjects = tuple(examined(checkpoint, settings) for checkpoint in checkpoints)
        written.append(out / COMPARED)
        write_config(Analysis(subjects=subjects, findings=(finding,)), written[-1])
    return written


def _known(checkpoint: Checkpoint, settings: Settings, file: Path) -> Analysis:
    """Return stored findings on the same checkpoint and text."""
    subjects = (examined(checkpoint, settings),)
    if file.exists() and (before := read_analysis(file)).subjects == subjects:
        return before
    return Analysis(subjects=subjects, findings=())


def _results(
    checkpoints: Sequence[Checkpoint], settings: Settings, asked: Mapping[int, list[str]], address: str | None
) -> Iterator[tuple[int, Finding | Trained | None]]:
    """Yield results as the tasks produce them: findings, the biases to compare, and None after a silence."""
    if not asked:
        return
    connect_ray(address)
    try:
        total = ray.cluster_resources()
        gpu = float(total.get("GPU", 0) > 0)
        threads = 1 if gpu else max(1, int(total["CPU"]) // len(asked))
        task = ray.remote(num_cpus=threads, num_gpus=gpu, max_retries=1)(_examine)
        given = threads, "cuda" if gpu else "cpu"
        streams: dict[Any, int] = {task.remote(checkpoints[i], settings, asked[i], *given): i for i in asked}
        while streams:
            ready: list[Any] = ray.wait(list(streams), num_returns=1, timeout=_BEAT_SECONDS)[0]
            if not ready:
                yield -1, None
            elif (reference := next(ready[0], None)) is None:
                del streams[ready[0]]
            else:
                index, result = streams[ready[0]], ray.get(reference)
                if isinstance(result, SponError):
                    raise SponError(f"{checkpoints[index].meta.config.name}: {result}")
                yield index, result
    finally:
        ray.shutdown()


def _examine(
    checkpoint: Checkpoint, settings: Settings, questions: list[str], threads: int, device: str
) -> Iterator[Finding | Trained | SponError]:
    """Examine one checkpoint as a Ray task. A user error is yielded: raised, it would carry Ray's long traceback."""
    torch.set_num_threads(threads)
    try:
        subject = subject_of(checkpoint, settings, device)
        yield subject.trained
        yield from examine(subject, questions, settings.curse)
    except SponError as error:
        yield error


class _Progress:
    """Prints one line for each finding of the questions to ask, with an estimate of the time left."""

    def __init__(self, waiting: Sequence[tuple[Checkpoint, str]], n_blocks: int) -> None:
        self._begun, self._done = time.monotonic(), 0.0
        self._left = {(one.meta.config.name, question): _cost(one, question, n_blocks) for one, question in waiting}
        self._total = sum(self._left.values())

    def done(self, name: str, question: str) -> None:
        """Report that a question about a trial was answered."""
        self._done += self._left.pop((name, question))
        left = (time.monotonic() - self._begun) * (self._total - self._done) / self._done
        self._print(f"{name}  {question}, about {left / 60:.0f} min left")

    def beat(self) -> None:
        """Report progress after a silence."""
        if not self._left:
            self._print("reading biases")
            return
        name, question = next(iter(self._left))
        self._print(f"{name}  {question} is under way, {self._done / self._total:.0%} of all work is done")

    def _print(self, line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        print(f"{minutes:3d}:{seconds:02d}  {line}", flush=True)


def _cost(checkpoint: Checkpoint, question: str, n_blocks: int) -> float:
    """Approximate work of a question in forward passes over the text."""
    n_sites = len(checkpoint.meta.config.sites)
    of_sites = n_sites * worth.BLOCKS / n_blocks if question == worth.NAME else 0.0
    return _PASSES.get(question, 1) + of_sites
