"""A study of four runs at one sparsity, as the real one is laid out; two of them have a checkpoint."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import torch

TOKENS = 2 * 127  # two blocks of 128, whose first token is not predicted
TOTAL = {"BASELINE-TEAL": 800, "UNIF-ALL": 784, "TOP-50": 796, "ATTN-ONLY": 776}
DENSE, O_PROJ_TEAL = 768, 788  # total losses in nats, as those of the runs
LAYERS = {"BASELINE-TEAL": 0, "UNIF-ALL": 16, "TOP-50": 8, "ATTN-ONLY": 16}
WIDTH = 2048
SITES = [f"layer_{layer}_down_proj" for layer in range(8)]


def ppl(total: float) -> float:
    return math.exp(total / TOKENS)


def run(name: str) -> dict[str, object]:
    teal = O_PROJ_TEAL if name == "ATTN-ONLY" else TOTAL["BASELINE-TEAL"]
    against = ppl(TOTAL[name]) / ppl(teal)
    return {
        "config_name": name,
        "sparsity": 0.5,
        "perplexity": ppl(TOTAL[name]),
        "loss": TOTAL[name] / TOKENS,
        "num_tokens": TOKENS,
        "num_spon_layers": LAYERS[name],
        "num_spon_params": LAYERS[name] * WIDTH,
        "relative_params": LAYERS[name] / 16,
        "training_loss_final": 0.05,
        "training_time_seconds": 1.5,
        "ppl_vs_dense": ppl(TOTAL[name]) / ppl(DENSE),
        "ppl_vs_teal": against,
        "ppl_improvement": 100 * (1 - against),
    }


def results() -> dict[str, object]:
    extra = {
        "all_sparsities": [0.5],
        "all_configs": list(TOTAL),
        "default_sparse_modules": ["down_proj"],
        "data_driven_overrides": None,
        "model_provider_requested": "auto",
        "model_provider_effective": "hub",
        "ollama_model": "none",
        "provider_fallback_reason": "",
    }
    config = {
        "model_name": "meta-llama/Llama-3.2-1B",
        "model_num_layers": 0,
        "model_hidden_dim": 0,
        "sparsity": 0.5,
        "config_name": "",
        "layer_mask": [],
        "modules": [],
        "epochs": 3,
        "learning_rate": 2e-5,
        "batch_size": 4,
        "block_size": 128,
        "calibration_dataset": "wikitext",
        "calibration_samples": 6,
        "seed": 7,
        "extra": extra,
    }
    runs = {f"{name}_s0.5": run(name) for name in TOTAL}
    return {"run_id": "run_1", "timestamp": "then", "config": config, "results": runs}


def vectors(name: str) -> dict[str, torch.Tensor]:
    """Small random biases; the two runs share a part, so that they are alike but not equal."""
    shared, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(len(name))
    return {
        f"layer_{layer}_down_proj": 1e-3 * (torch.randn(WIDTH, generator=shared) + torch.randn(WIDTH, generator=own))
        for layer in range(LAYERS[name])
    }


def checkpoint(name: str) -> dict[str, object]:
    mask = list(range(LAYERS[name]))
    extra = {"training_loss": 0.05, "modules": ["down_proj"], "layer_mask": mask}
    head = {"config_name": name, "sparsity": 0.5, "run_id": "run_1", "timestamp": "then", "extra": extra}
    return {"biases": vectors(name), **head}


def statistics(vector: torch.Tensor) -> dict[str, float]:
    x = vector.numpy().astype(np.float64)
    fourth = ((x - x.mean()) ** 4).mean()
    return {
        "mean": x.mean(),
        "std": x.std(),
        "l2_norm": math.sqrt((x * x).sum()),
        "max_abs": abs(x).max(),
        "sparsity": 0.0,
        "pos_frac": (x > 0).mean(),
        "kurtosis": fourth / (x.std() ** 4 + 1e-12) - 3,
    }


def interpretability() -> dict[str, object]:
    one, other = vectors("TOP-50"), vectors("UNIF-ALL")
    norms = {site: float(one[site].norm()) for site in SITES}
    pairs = {
        site: {
            "cosine_similarity": round(float(one[site] @ other[site] / one[site].norm() / other[site].norm()), 4),
            "l2_difference": round(float((one[site] - other[site]).norm()), 4),
        }
        for site in SITES
    }
    stems = ("spon_TOP-50_s0.50", "spon_UNIF-ALL_s0.50")
    aggregate = {"avg_cosine_similarity": 0.5, "config_a": stems[0], "config_b": stems[1]}
    arguments = {
        "model": "meta-llama/Llama-3.2-1B",
        "spon_checkpoint": f"there/{stems[0]}.pt",
        "spon_checkpoint_b": f"there/{stems[1]}.pt",
        "sparsity": 0.5,
        "output_dir": "there",
        "device": "cuda",
        "model_provider": "auto",
        "ollama_model": None,
        "pull_ollama": False,
    }
    cosines = {"pc_similarities": [0.01, -0.04, 0.02], "explained_variance": [0.5, 0.3, 0.1]}
    category = {"l2_shifts": {SITES[0]: 0.1, SITES[1]: 0.3}, "cka_scores": {SITES[0]: 0.9, SITES[1]: 1.0}}
    shift = {"teal_shift_l2": 0.1, "spon_shift_l2": 0.2, "recovery_pct": -100.0}
    means = {"avg_teal_shift": 0.1, "avg_spon_shift": 0.2, "avg_recovery_pct": -100.0}
    return {
        "args": arguments,
        "pca_alignments": {site: cosines | {"max_alignment": 0.04, "best_pc": 1} for site in SITES},
        "category_analysis": {"math": category | {"avg_l2": 0.2, "avg_cka": 0.95}},
        "bias_statistics": {site: statistics(one[site]) for site in SITES},
        "hidden_state_shifts": {site: shift for site in SITES} | {"_aggregate": means},
        "bias_norm_ranking": [
            {"layer": site, "l2_norm": norms[site]} for site in sorted(SITES, key=lambda site: -norms[site])
        ],
        "cross_config_comparison": pairs | {"_aggregate": aggregate},
        "timestamp": "then",
    }


def pareto() -> list[dict[str, object]]:
    keys = ("config_name", "sparsity", "perplexity", "relative_params")
    return [{key: run(name)[key] for key in keys} for name in ("BASELINE-TEAL", "TOP-50", "UNIF-ALL", "ATTN-ONLY")]


def write_results(directory: Path, raw: dict[str, object]) -> None:
    """Write results and the table that repeats them."""
    (directory / "results.json").write_text(json.dumps(raw))
    rows = [found | {"run_id": raw["run_id"]} for found in raw["results"].values()]
    with (directory / "summary.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, sorted(rows[0]))
        table.writeheader()
        table.writerows(rows)


def write_study(directory: Path) -> Path:
    directory.mkdir()
    write_results(directory, results())
    (directory / "pareto.json").write_text(json.dumps(pareto()))
    (directory / "interpretability.json").write_text(json.dumps(interpretability()))
    for name in ("TOP-50", "UNIF-ALL"):
        torch.save(checkpoint(name), directory / f"spon_{name}_s0.50.pt")
    return directory


def edit(file: Path, *path: str, value: object) -> None:
    """Set one value of a JSON file."""
    raw = json.loads(file.read_text())
    node = raw
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    file.write_text(json.dumps(raw))
