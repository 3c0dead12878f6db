"""The model card of an export: what it is, how to load it, and its measured scores, read from the checkpoint."""

import math
from collections.abc import Mapping
from functools import partial

from analysis.export.load import SponSpec
from search_spaces.config import EMBEDDED
from trainables.checkpoint import Checkpoint
from trainables.scores import Scores
from trainables.statistics import Array, Interval, Means, Statistic, bootstrap_unit, paired_bootstrap, recovered

_MODELS = {"dense": "dense", "teal": "TEAL alone", "spon": "TEAL and SPON"}


def model_card(checkpoint: Checkpoint, spec: SponSpec, on_hub: bool) -> str:
    """Render the card as Markdown with the hub's front matter. It links the base model if that is ``on_hub``."""
    config = checkpoint.meta.config
    base = f"base_model: {config.model.source}\n" if on_hub else ""
    name = spec.base_model["source"]
    title = "SmolLM2-135M-Instruct, converted by SPON Sweep" if name == EMBEDDED else name
    location = config.model.source if on_hub else "PATH/TO/BASE/MODEL"
    return f"""---
library_name: transformers
{base}tags: [activation-sparsity, teal, spon]
---
# SPON biases {config.allocation} for {title}

{config.n_spon_params:,} learned numbers on {len(checkpoint.biases)} linear layers, y = W S(x) + b. They are \
trained to repair the damage of TEAL's activation sparsity ({config.plan_label}). Made by SPON Sweep, \
trial `{config.name}`, for the base model `{config.model_fingerprint}`.

## Use

{_absorbed_use() if spec.absorbed else _adapter_use(location)}
`spon.py` needs torch, transformers and safetensors. {_tokens_in_words(spec)} On a CPU it generates faster by \
skipping zeros, if `spon.c` is beside it and a C compiler is installed. Elsewhere zeros are multiplied like any number.

## Measured

{measured_table(checkpoint)}
"""


def _adapter_use(base: str) -> str:
    return f"""```python
from spon import load_spon  # spon.py in this directory
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{base}")
handle = load_spon(model, "PATH/TO/THIS/DIRECTORY")  # handle.remove() makes the model dense again
```
"""


def _absorbed_use() -> str:
    return """The biases are folded into the weights, so `from_pretrained` loads this directory like any model. **By \
itself that is not the model measured below**: its inputs are dense, so the biases correct an error that does not \
occur. Attach the sparsifier:

```python
from spon import load_spon  # spon.py in this directory
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("PATH/TO/THIS/DIRECTORY")
handle = load_spon(model, "PATH/TO/THIS/DIRECTORY")  # adds the sparsity; handle.remove() takes it off
```

A server that does not run `spon.py` must sparsify by itself, with the rule, levels and thresholds in
`spon_config.json`.
"""


def _tokens_in_words(spec: SponSpec) -> str:
    return {
        "all": "Every token is sparsified, with or without a KV cache.",
        "second_half": "The first half of a prefill stays dense; its second half and all decoded tokens are "
        "sparsified. Decoding with a KV cache keeps that half. A call without one takes half of its own length.",
    }[spec.tokens]


def measured_table(checkpoint: Checkpoint) -> str:
    """Compare the dense model, TEAL alone and SPON, on the test split if it was scored, else on validation."""
    split = "test" if "test.spon" in checkpoint.scores else "validation"
    scores = {who: checkpoint.scores[f"{split}.{who}"] for who in _MODELS}
    found = paired_bootstrap(scores, _STATISTICS)
    rows = [
        f"| {name} | {found[f'{who}_kl']:.4f} | {found[f'{who}_nll']:.4f} | {found[f'{who}_ppl']:.2f} |"
        for who, name in _MODELS.items()
    ]
    lines = [
        _conditions(checkpoint, split, scores["spon"]),
        "",
        "| model | KL(dense \\|\\| model), nats per token | NLL, nats per token | perplexity |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        f"Share of TEAL's damage that SPON repairs: of the KL {_recovery(found, 'kl')}; "
        f"of the perplexity {_recovery(found, 'ppl')}.",
    ]
    return "\n".join(lines)


def _conditions(checkpoint: Checkpoint, split: str, scores: Scores) -> str:
    config, realised = checkpoint.meta.config, checkpoint.meta.metrics["realised_sparsity"]
    text = "SPON Sweep's Wikipedia sample" if config.corpus.source == EMBEDDED else config.corpus.source
    return (
        f"The {split} split of the corpus ({text}, {len(scores.block_nll)} blocks of {config.corpus.block_size} "
        f"tokens), weights in {config.model.dtype}, realised sparsity {realised:.3f} on validation; "
        f"[95% paired bootstrap over {bootstrap_unit(scores)}]."
    )


def _figure_of(who: str, what: str, models: Mapping[str, Means]) -> Array:
    figure: Array = getattr(models[who], what)
    return figure


_STATISTICS: dict[str, Statistic] = {
    **{f"{who}_{what}": partial(_figure_of, who, what) for who in _MODELS for what in ("kl", "nll", "ppl")},
    "kl_recovered": lambda m: recovered(m["dense"].kl, m["teal"].kl, m["spon"].kl),
    "ppl_recovered": lambda m: recovered(m["dense"].ppl, m["teal"].ppl, m["spon"].ppl),
}


def _recovery(found: Mapping[str, Interval], of: str) -> str:
    share = found[f"{of}_recovered"]
    if math.isnan(share.value):
        return "not given, because TEAL's damage is not certain: its interval reaches zero"
    return f"{share:+.1%}"
