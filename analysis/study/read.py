"""Reads the study's committed results, strictly: one directory of four text files and its ``spon_*.pt``."""

import csv
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from analysis.study.layout import (
    CheckpointHead,
    Interpretability,
    ParetoEntry,
    Results,
    SummaryRow,
)
from search_spaces.errors import SponError
from search_spaces.files import first_fault
from search_spaces.sites import Site, site_order

_RESULTS, _SUMMARY, _PARETO, _ANALYSIS = "results.json", "summary.csv", "pareto.json", "interpretability.json"
T = TypeVar("T")


@dataclass(frozen=True)
class StudyCheckpoint:
    """A ``.pt`` file.

    Attributes:
        biases: fp32 vector of each site, in site order.
    """

    head: CheckpointHead
    biases: Mapping[Site, Tensor]

    @property
    def name(self) -> str:
        """Configuration and sparsity, such as ``TOP-50_s0.50``."""
        return f"{self.head.config_name}_s{self.head.sparsity:.2f}"


@dataclass(frozen=True)
class Study:
    """Everything that the study committed.

    Attributes:
        checkpoints: by the name of the file, such as ``spon_TOP-50_s0.50``.
    """

    results: Results
    pareto: tuple[ParetoEntry, ...]
    interpretability: Interpretability
    checkpoints: Mapping[str, StudyCheckpoint]

    @property
    def analysed(self) -> StudyCheckpoint:
        """The checkpoint that the study's interpretability analysis is about."""
        return self.checkpoints[PurePosixPath(self.interpretability.args.spon_checkpoint).stem]

    @property
    def other(self) -> StudyCheckpoint:
        """The checkpoint that it compares this one with."""
        return self.checkpoints[PurePosixPath(self.interpretability.args.spon_checkpoint_b).stem]


def read_study(directory: Path) -> Study:
    """Read and cross-check the study's directory.

    Raises:
        SponError: if a file is missing, broken, or of another form, or two of them contradict each other.
    """
    if not directory.is_dir():
        raise SponError(f"a study must be a directory, but there is none (at {directory})")
    results = _read(directory / _RESULTS, lambda raw: Results.model_validate_json(raw, strict=True))
    _check_results(results, directory / _RESULTS)
    _check_summary(results, directory / _SUMMARY)
    entries = TypeAdapter(tuple[ParetoEntry, ...])
    pareto = _read(directory / _PARETO, lambda raw: entries.validate_json(raw, strict=True))
    _check_pareto(pareto, results, directory / _PARETO)
    files = sorted(directory.glob("spon_*.pt"))
    checkpoints = {file.stem: _read_checkpoint(file, results.run_id) for file in files}
    analysis = _read(directory / _ANALYSIS, lambda raw: Interpretability.model_validate_json(raw, strict=True))
    study = Study(results, pareto, analysis, checkpoints)
    _check_analysis(study, directory)
    return study


def _read(file: Path, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(file.read_bytes())
    except FileNotFoundError as error:
        raise SponError(f"a study must hold {file.name}, but it is missing (at {file.parent})") from error
    except OSError as error:
        raise SponError(f"a study's file must be readable, but {error.strerror} (at {file})") from error
    except ValidationError as error:
        raise SponError(_not_of_this_form(error, file)) from error


def _not_of_this_form(error: ValidationError, file: Path) -> str:
    return f"a study's file must be of the study's form, but {first_fault(error)} (at {file})"


def _check_results(results: Results, file: Path) -> None:
    for key, result in results.results.items():
        if key != f"{result.config_name}_s{result.sparsity}":
            got = f"{result.config_name} at {result.sparsity}"
            raise SponError(f"a result must be of the run that it is named for, but {key} is {got} (at {file})")


def _check_summary(results: Results, file: Path) -> None:
    """The table repeats the results; read it to know that it does."""
    rows = _read(file, _parse_summary)
    want = [SummaryRow(run_id=results.run_id, **result.model_dump()) for result in results.results.values()]
    strange = next((row for row in rows if row not in want), None)
    if strange is not None or len(rows) != len(want):
        got = f"{strange.config_name} at {strange.sparsity}" if strange else f"{len(rows)} rows for {len(want)} results"
        raise SponError(f"a study's table must repeat {_RESULTS}, but it differs in {got} (at {file})")


def _parse_summary(raw: bytes) -> list[SummaryRow]:
    return [SummaryRow.model_validate(row) for row in csv.DictReader(raw.decode(errors="replace").splitlines())]


def _check_pareto(pareto: Iterable[ParetoEntry], results: Results, file: Path) -> None:
    known = {(r.config_name, r.sparsity, r.perplexity, r.relative_params) for r in results.results.values()}
    for entry in pareto:
        if (entry.config_name, entry.sparsity, entry.perplexity, entry.relative_params) not in known:
            got = f"{entry.config_name} at {entry.sparsity}"
            raise SponError(f"a Pareto set must be of the results, but {got} is not (at {file})")


def _check_analysis(study: Study, directory: Path) -> None:
    """The analysis must be of checkpoints that are here and treat the same sites throughout."""
    analysis, pairs = study.interpretability, study.interpretability.cross_config_comparison
    stems = [PurePosixPath(path).stem for path in (analysis.args.spon_checkpoint, analysis.args.spon_checkpoint_b)]
    missing = next((stem for stem in stems if stem not in study.checkpoints), None)
    if missing is not None:
        raise SponError(
            f"a study must hold the checkpoints of its analysis, but {missing}.pt is missing (at {directory})"
        )
    where = directory / _ANALYSIS
    if [pairs.aggregate.config_a, pairs.aggregate.config_b] != stems:
        got = f"{pairs.aggregate.config_a} and {pairs.aggregate.config_b}"
        raise SponError(f"a comparison must be of {' and '.join(stems)}, but it is of {got} (at {where})")
    sites = {str(site) for site in study.analysed.biases}
    treated: dict[str, Iterable[str]] = {
        "pca_alignments": analysis.pca_alignments,
        "bias_statistics": analysis.bias_statistics,
        "hidden_state_shifts": analysis.hidden_state_shifts.sites,
        "bias_norm_ranking": [place.layer for place in analysis.bias_norm_ranking],
    }
    for what, named in treated.items():
        if set(named) != sites:
            raise SponError(f"an analysis must treat the sites of {stems[0]}, but {what} does not (at {where})")
    if set(pairs.sites) != sites & {str(site) for site in study.other.biases}:
        raise SponError(f"a comparison must treat the sites that both checkpoints share, but it does not (at {where})")


def _read_checkpoint(file: Path, run_id: str) -> StudyCheckpoint:
    raw = _load(file)
    biases = raw.pop("biases")
    if not isinstance(biases, dict) or not all(_is_bias(vector) for vector in biases.values()):
        raise SponError(
            f"a study's biases must be finite fp32 vectors that are not constant, but got others (at {file})"
        )
    try:
        head = CheckpointHead.model_validate(raw | {"sites": tuple(biases)})
    except ValidationError as error:
        raise SponError(_not_of_this_form(error, file)) from error
    vectors = dict(zip(map(Site.parse, head.sites), biases.values(), strict=True))
    named = {Site(layer, module) for layer in head.extra.layer_mask for module in head.extra.modules}
    if set(vectors) != named:
        raise SponError(f"a study's biases must be those of its layer_mask and modules, but they are not (at {file})")
    checkpoint = StudyCheckpoint(head, {site: vectors[site] for site in sorted(vectors, key=site_order)})
    if (head.run_id, file.stem) != (run_id, f"spon_{checkpoint.name}"):
        got = f"{checkpoint.name} of {head.run_id}"
        raise SponError(f"a study's checkpoint must be of {run_id} and named for its run, but it is {got} (at {file})")
    return checkpoint


def _load(file: Path) -> dict[str, object]:
    """Unpickle tensors and plain values; a pickle that needs code is refused, and the code is not run."""
    try:
        raw = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its own words advise to load the file nonetheless
        raise SponError(
            f"a .pt file must hold tensors and plain values only, but it holds something else (at {file})"
        ) from error
    except (RuntimeError, EOFError, OSError, LookupError) as error:  # LookupError: the unpickler met what is no pickle
        raise SponError(f"a .pt file must be whole and of torch's form, but it is not (at {file})") from error
    if not isinstance(raw, dict) or "biases" not in raw:
        raise SponError(f"a study's checkpoint must be a mapping with biases, but it is not (at {file})")
    return raw


def _is_bias(vector: object) -> bool:
    if not isinstance(vector, Tensor) or vector.dtype != torch.float32 or vector.dim() != 1 or not len(vector):
        return False
    return bool(vector.isfinite().all() and vector.max() > vector.min())
