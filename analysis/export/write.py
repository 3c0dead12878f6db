"""Writes an export: the adapter, or the model with its biases folded in, each with its runtime and model card."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from analysis.export import load
from analysis.export.absorb import absorb
from analysis.export.card import model_card
from analysis.export.load import BIASES, CONFIG, SCHEMA_VERSION, SiteSpec, SponSpec
from search_spaces.config import EMBEDDED
from search_spaces.errors import SponError
from search_spaces.sites import ModelShape, Site, site_order
from trainables.checkpoint import Checkpoint, check_fits, read_checkpoint
from trainables.model.resident import ResidentModel, find_model, load_model, load_tokenizer, read_shape
from trainables.spon import SponBiases

RUNTIME, CARD = "spon.py", "README.md"


def export(source: Path, directory: Path, absorbed: bool = False) -> None:
    """Write the export of a checkpoint.

    Args:
        source: directory of the checkpoint.
        directory: to create; it may exist if it is empty.
        absorbed: fold the biases into the model's weights and write the whole model.

    Raises:
        SponError: if the checkpoint has no biases, its model is unavailable or has changed, ``directory`` is not empty
            or not writable, the model has no place for the biases, or they would act at tokens that stay dense.
    """
    checkpoint = read_checkpoint(source)
    config = checkpoint.meta.config
    if not checkpoint.biases:
        raise SponError(f"an export must have biases, but {config.name} is TEAL alone (at {source})")
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise SponError(f"an export must go into a new or an empty directory, but this is neither (at {directory})")
    if absorbed and config.plan.tokens != "all":
        raise SponError(
            f"absorbed biases act at every token, but this trial leaves some dense ({config.plan.tokens}); "
            "an export without --absorb, the adapter, works (at --absorb)"
        )
    found = find_model(config.model)
    shape = read_shape(found)
    check_fits(checkpoint, shape, found.fingerprint)
    spec = spec_of(checkpoint, shape, absorbed)
    model = None
    if absorbed or config.training.form == "input_vector":
        model = load_model(found, config.model.dtype, "cpu")
    biases = output_biases(checkpoint, shape, model)
    with _staged(directory) as stage:
        if absorbed:
            assert model is not None
            absorb(model.network, biases, config.identity)
            model.network.save_pretrained(stage)
            load_tokenizer(found).save_pretrained(stage)
        else:
            save_file(biases, stage / BIASES)
        (stage / CONFIG).write_text(json.dumps(asdict(spec), indent=1))
        for suffix in (".py", ".c"):
            shutil.copyfile(Path(load.__file__).with_suffix(suffix), (stage / RUNTIME).with_suffix(suffix))
        (stage / CARD).write_text(model_card(checkpoint, spec, _on_hub(config.model.source)), encoding="utf-8")


def spec_of(checkpoint: Checkpoint, shape: ModelShape, absorbed: bool) -> SponSpec:
    """Make the content of ``spon_config.json``: every sparsified or biased site, in canonical order."""
    config, thresholds = checkpoint.meta.config, checkpoint.meta.thresholds
    levels = config.plan.levels
    sites = sorted({Site.parse(text) for text in levels} | set(checkpoint.biases), key=site_order)
    source = config.model.source
    return SponSpec(
        schema_version=SCHEMA_VERSION,
        base_model={
            # A local model is named by its directory alone, because its full path means nothing on other machines
            "source": source if _on_hub(source) or source == EMBEDDED else Path(source).name,
            "revision": config.model.revision,
            "fingerprint": config.model_fingerprint,
            "num_layers": shape.num_layers,
        },
        trial={
            "identity": config.identity,
            "name": config.name,
            "allocation": config.allocation,
            "plan": config.plan_label,
            "dtype": config.model.dtype,
        },
        form="output_bias",
        trained_form=config.training.form,
        absorbed=absorbed,
        rule=config.plan.rule,
        tokens=config.plan.tokens,
        sites={
            shape.sites[site].path: SiteSpec(
                in_features=shape.sites[site].in_features,
                out_features=shape.sites[site].out_features,
                sparsity=levels.get(str(site), 0.0),
                threshold=thresholds.get(str(site)),
                bias=site in checkpoint.biases,
            )
            for site in sites
        },
    )


def output_biases(checkpoint: Checkpoint, shape: ModelShape, model: ResidentModel | None) -> dict[str, Tensor]:
    """Return the biases b by module path, (out_features,) fp32.

    The model is needed for the form ``input_vector`` alone: it computes b = W a, rounded as in the trial.
    """
    if checkpoint.meta.config.training.form == "output_bias":
        return {shape.sites[site].path: vector for site, vector in checkpoint.biases.items()}
    assert model is not None
    biases = SponBiases.of(model, checkpoint.biases, "input_vector")
    with torch.no_grad():
        return {shape.sites[site].path: bias(model.linear(site).weight).float() for site, bias in biases.sites.items()}


def _on_hub(source: str) -> bool:
    return source != EMBEDDED and not Path(source).is_dir()


@contextmanager
def _staged(directory: Path) -> Iterator[Path]:
    """Yield a directory that is renamed to ``directory`` on success and removed on failure."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export.", dir=directory.parent) as scratch:
            stage = Path(scratch) / "export"
            stage.mkdir()
            yield stage
            for file in stage.rglob("*.safetensors"):
                file.chmod(0o644)  # safetensors writes 0o600, unreadable for others
            stage.rename(directory)
    except (OSError, SafetensorError) as error:
        raise SponError(f"an export must be writable, but {error} (at {directory})") from error
