"""The study's runs as trials of this repository, and its ``.pt`` files as our checkpoints."""

from collections.abc import Mapping
from pathlib import Path

import search_spaces
from analysis.study.layout import Results
from analysis.study.read import Study, StudyCheckpoint
from search_spaces.errors import SponError
from search_spaces.load import load_space, parse_space
from search_spaces.resolve import Fingerprints, resolve_grid
from search_spaces.schema import TrialConfig
from search_spaces.sites import MODULES, ModelShape, Module, Site, SiteShape
from trainables.cache import writable, written_aside
from trainables.checkpoint import Checkpoint, CheckpointMeta, check_fits, write_checkpoint

Trials = Mapping[tuple[str, float], TrialConfig]
"""Name of the study's configuration and sparsity -> trial."""

_SPACE = Path(search_spaces.__path__[0]) / "llama-3.2-1b.yaml"
_LAYERS, _HIDDEN, _FFN, _KEYS, _VOCABULARY, _PARAMETERS = 16, 2048, 8192, 512, 128_256, 1_235_814_400
_WIDTHS: dict[Module, tuple[int, int]] = {
    "q_proj": (_HIDDEN, _HIDDEN),
    "k_proj": (_HIDDEN, _KEYS),
    "v_proj": (_HIDDEN, _KEYS),
    "o_proj": (_HIDDEN, _HIDDEN),
    "gate_proj": (_HIDDEN, _FFN),
    "up_proj": (_HIDDEN, _FFN),
    "down_proj": (_FFN, _HIDDEN),
}
_BLOCK = {"gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp"}


def llama_shape() -> ModelShape:
    """The shape of Llama-3.2-1B, which is gated: the import must not need it."""
    sites = {
        Site(layer, module): SiteShape(
            f"model.layers.{layer}.{_BLOCK.get(module, 'self_attn')}.{module}", *_WIDTHS[module]
        )
        for layer in range(_LAYERS)
        for module in MODULES
    }
    return ModelShape(_LAYERS, _HIDDEN, _VOCABULARY, _PARAMETERS, sites)


def study_trials(results: Results) -> Trials:
    """Resolve every run of the study by this repository's space of it, with the settings that the study recorded.

    Raises:
        SponError: if the study is of another model, or a run is not what its name means here.
    """
    base, run = load_space(_SPACE, ["model.dtype=bfloat16"]), results.config
    if run.model_name != base.model.source:
        raise SponError(f"a study must be of {base.model.source}, but got {run.model_name} (at config.model_name)")
    tokens = {result.num_tokens for result in results.results.values()}
    blocks, left = divmod(tokens.pop(), run.block_size - 1)  # the first token of a block is not predicted
    if tokens or left:
        raise SponError("a study must be scored on one set of whole blocks, but num_tokens says otherwise (at results)")
    raw = base.model_dump(mode="json")
    raw["corpus"]["block_size"] = run.block_size
    raw["corpus"]["blocks"] |= {"calibration": run.calibration_samples, "test": blocks}
    raw["training"] |= {"lr": run.learning_rate, "epochs": run.epochs, "batch_size": run.batch_size, "seed": run.seed}
    runs = list(results.results.values())
    raw |= {
        "sparsity": list(dict.fromkeys(r.sparsity for r in runs)),
        "allocations": list(dict.fromkeys(r.config_name for r in runs)),
        "seeds": [run.seed],
    }
    space = parse_space(raw, "the study's settings")
    unknown = Fingerprints(f"{base.model.source}@not recorded", f"{base.corpus.source}@not recorded")
    trials = {(t.allocation, t.sparsity): t for t in resolve_grid(space, llama_shape(), unknown)[0]}
    _check_runs(results, trials)
    return trials


def _check_runs(results: Results, trials: Trials) -> None:
    for run in results.results.values():
        trial = trials.get((run.config_name, run.sparsity))
        if trial is None or len({Site.parse(site).layer for site in trial.sites}) != run.num_spon_layers:
            got = f"{run.config_name} with {run.num_spon_layers} layers"
            raise SponError(f"a run must be what its name, and no other in the study, means here, but got {got}")


def as_checkpoint(taken: StudyCheckpoint, study: Study, trials: Trials) -> Checkpoint:
    """One of our checkpoints from one of the study's, with the metrics that the study recorded and no scores.

    Raises:
        SponError: if its run is not in the results, or its vectors are not those of the trial.
    """
    head = taken.head
    trial = trials.get((head.config_name, head.sparsity))
    if trial is None:
        raise SponError(f"a checkpoint must be of a run in the results, but {head.config_name} has none")
    sites = [str(site) for site in taken.biases]
    if sites != list(trial.sites):
        raise SponError(f"{head.config_name} must have biases at {', '.join(trial.sites)}, but got {', '.join(sites)}")
    run = study.results.results[f"{head.config_name}_s{head.sparsity}"]
    shape = llama_shape()
    meta = CheckpointMeta(
        config=trial,
        paths={site: shape.sites[Site.parse(site)].path for site in sites},
        thresholds={},
        realised_sparsity={},
        metrics={
            "test_nll_nats": run.loss,
            "test_ppl": run.perplexity,
            "test_teal_ppl": run.perplexity / run.ppl_vs_teal,
            "test_dense_ppl": run.perplexity / run.ppl_vs_dense,
        },
        history=(),
        versions={},
        commit=None,
    )
    checkpoint = Checkpoint(meta, taken.biases, {})
    check_fits(checkpoint, shape, trial.model_fingerprint)
    return checkpoint


def write_checkpoints(study: Study, trials: Trials, out: Path) -> list[Path]:
    """Write each ``.pt`` as ``trials/NAME/checkpoint`` and return these directories.

    Raises:
        SponError: if one is not of this model, or the directory cannot be written.
    """
    checkpoints = [as_checkpoint(taken, study, trials) for taken in study.checkpoints.values()]
    places = [out / "trials" / checkpoint.meta.config.name / "checkpoint" for checkpoint in checkpoints]
    for checkpoint, place in zip(checkpoints, places, strict=True):
        with writable(place), written_aside(place) as aside:
            write_checkpoint(checkpoint, aside)
    return places
