"""The checkpoint of a finished trial: one reader and one writer.

A checkpoint is a directory of three files: ``spon.safetensors`` (a vector per site, keyed by the module's path in the
model), ``scores.safetensors`` (per-block and per-document scores, for paired comparisons) and ``meta.json`` (everything
needed to use and to judge it), which is written last and completes it. Test results follow in ``test.safetensors`` and
``test.json``. A checkpoint is self-contained: nothing else of the sweep is needed to read it.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from search_spaces import __version__
from search_spaces.base import Config
from search_spaces.errors import SponError
from search_spaces.files import first_fault, write_whole
from search_spaces.sites import ModelShape, Site
from search_spaces.trial import TrialConfig
from trainables.scores import Scores

SCHEMA_VERSION = 1
META, BIASES, SCORES = "meta.json", "spon.safetensors", "scores.safetensors"
TEST_METRICS, TEST_SCORES = "test.json", "test.safetensors"
COMMIT = "SPON_COMMIT"
"""Environment variable that passes the driver's commit to its workers on other nodes."""
_LIBRARIES = ("torch", "transformers", "datasets", "ray", "optuna", "mlflow", "safetensors", "pydantic")


class CheckpointMeta(Config):
    """What ``meta.json`` holds.

    Attributes:
        config: the whole resolved trial.
        paths: module path of each biased site, the keys of ``spon.safetensors``.
        thresholds: of each sparsified site; empty for the rule ``topk``.
        realised_sparsity: fraction really zeroed at each site on the validation split, without biases.
        metrics: final metrics by name, with units in the names.
        history: metrics of each validation during training.
        versions: of this product and of the libraries that made it.
        commit: of this code, if it ran from a git checkout.
    """

    schema_version: int = SCHEMA_VERSION
    config: TrialConfig
    paths: dict[str, str]
    thresholds: dict[str, float]
    realised_sparsity: dict[str, float]
    metrics: dict[str, float]
    history: tuple[dict[str, float], ...]
    versions: dict[str, str]
    commit: str | None


@dataclass(frozen=True)
class Checkpoint:
    """A finished trial in memory.

    Attributes:
        meta: everything but tensors.
        biases: fp32 vector of each biased site.
        scores: by split and model, such as ``validation.spon``, ``validation.teal``, ``validation.dense``.
    """

    meta: CheckpointMeta
    biases: Mapping[Site, Tensor]
    scores: Mapping[str, Scores]


def library_versions() -> dict[str, str]:
    """Versions of this product and of the installed libraries that affect a result; a trial alone needs only some."""
    return {"spon-sweep": __version__, **{name: version(name) for name in _LIBRARIES if find_spec(name)}}


def code_commit() -> str | None:
    """Commit of this code, or of the driver that sent it here; None outside a git checkout."""
    if COMMIT in os.environ:
        return os.environ[COMMIT] or None
    here = Path(__file__).parent
    try:
        run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def write_checkpoint(checkpoint: Checkpoint, directory: Path) -> None:
    """Write the files of a checkpoint into a directory; the last one completes it."""
    paths, (trained, tested) = checkpoint.meta.paths, _split(checkpoint)
    save_file({paths[str(site)]: vector for site, vector in trained.biases.items()}, directory / BIASES)
    write_scores(trained.scores, directory / SCORES)
    if tested.scores:
        write_test(checkpoint, directory)
    write_whole(directory / META, trained.meta.model_dump_json(indent=1))


def write_test(checkpoint: Checkpoint, directory: Path) -> None:
    """Write the test metrics and scores of a checkpoint next to its other files."""
    _, tested = _split(checkpoint)
    write_scores(tested.scores, directory / TEST_SCORES)
    write_whole(directory / TEST_METRICS, json.dumps(tested.meta.metrics, indent=1))


def without_test(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint as it was before the test split was opened."""
    return _split(checkpoint)[0]


def _split(checkpoint: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """Two copies of a checkpoint: with the metrics and scores of other splits, and with those of the test split."""

    def part(of_test: bool) -> Checkpoint:
        metrics = {name: v for name, v in checkpoint.meta.metrics.items() if name.startswith("test_") is of_test}
        scores = {name: v for name, v in checkpoint.scores.items() if name.startswith("test.") is of_test}
        return Checkpoint(checkpoint.meta.model_copy(update={"metrics": metrics}), checkpoint.biases, scores)

    return part(False), part(True)


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read a checkpoint, strictly.

    Raises:
        SponError: if a file is missing, truncated, of another schema, or the vectors are not those of ``meta.json``.
    """
    for name in (META, BIASES, SCORES):
        if not (directory / name).is_file():
            raise SponError(
                f"a checkpoint must hold {META}, {BIASES} and {SCORES}, but {name} is missing (at {directory})"
            )
    meta = _read_meta(directory)
    try:
        vectors, scores = load_file(directory / BIASES), read_scores(directory / SCORES)
        if (directory / TEST_METRICS).exists():
            metrics = meta.metrics | json.loads((directory / TEST_METRICS).read_bytes())
            meta, scores = meta.model_copy(update={"metrics": metrics}), scores | read_scores(directory / TEST_SCORES)
    except (SafetensorError, TypeError) as error:  # TypeError: tensors that are not those of Scores
        raise SponError(f"a checkpoint's tensors must be whole, but {error} (at {directory})") from error
    if set(vectors) != set(meta.paths.values()) or set(meta.paths) != set(meta.config.sites):
        raise SponError(f"a checkpoint must hold exactly the biases of its {META}, but it does not (at {directory})")
    return Checkpoint(meta, {Site.parse(s): vectors[path] for s, path in meta.paths.items()}, scores)


def _read_meta(directory: Path) -> CheckpointMeta:
    """Read ``meta.json``, checking its schema version first, because a wrong one explains all other faults."""
    try:
        raw = json.loads((directory / META).read_bytes())
        if not isinstance(raw, dict) or "schema_version" not in raw:
            raise SponError(f"a checkpoint must have a schema_version, but its {META} has none (at {directory})")
        if raw["schema_version"] != SCHEMA_VERSION:
            got = raw["schema_version"]
            raise SponError(f"a checkpoint must have schema version {SCHEMA_VERSION}, but got {got} (at {directory})")
        return CheckpointMeta.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise SponError(
            f"a checkpoint must have this version's {META}, but {first_fault(error)} (at {directory})"
        ) from error
    except ValueError as error:
        raise SponError(f"a checkpoint's {META} must be JSON, but {error} (at {directory})") from error


def check_fits(checkpoint: Checkpoint, shape: ModelShape, fingerprint: str) -> None:
    """Refuse a checkpoint of another model.

    Raises:
        SponError: if the model's fingerprint, a site or a width differs.
    """
    config = checkpoint.meta.config
    if config.model_fingerprint != fingerprint:
        raise SponError(f"a checkpoint must be of this model, {fingerprint}, but it is of {config.model_fingerprint}")
    for site, vector in checkpoint.biases.items():
        known = shape.sites.get(site)
        width = known and (known.out_features if config.training.form == "output_bias" else known.in_features)
        if not known or vector.shape != (width,):
            raise SponError(f"a bias must fit its site, but {site} has shape {tuple(vector.shape)} for width {width}")


def write_scores(scores: Mapping[str, Scores], file: Path) -> None:
    """Write named scores as one safetensors file, whole or not at all."""
    # Clones: without biases the SPON scores are the TEAL scores, and tensors of a file may not share memory
    tensors = {f"{name}/{key}": tensor.clone() for name, s in scores.items() for key, tensor in s.tensors().items()}
    write_whole(file, save(tensors))


def read_scores(file: Path) -> dict[str, Scores]:
    """Read what ``write_scores`` wrote."""
    grouped: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(file).items():
        who, _, key = name.partition("/")
        grouped.setdefault(who, {})[key] = tensor
    return {who: Scores(**tensors) for who, tensors in grouped.items()}
