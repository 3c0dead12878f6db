"""What does a bias say? Its direct effect on the logits, through the final norm and the head and nothing in between."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from analysis.finding import Effect, Finding, Row
from analysis.resampling import chance_count, p_value
from analysis.subject import RESIDUAL_WRITERS, Subject, states_of
from search_spaces.sites import Site
from trainables.model import load_tokenizer
from trainables.statistics import Array

NAME = "logits"
_TOKENS = 256
_DRAWS = 200
_SHOWN = 6
_LEVEL = 0.05


@dataclass(frozen=True)
class DirectEffect:
    """What adding vectors to the residual stream does to the logits, mean over states.

    Attributes:
        spread: standard deviation over the vocabulary, in logits (nats), (vectors,). A constant would change nothing.
        peak: largest change over that spread, (vectors,): high where a few tokens are meant; zero without a spread.
        raised, lowered: vocabulary ids of the first vector, most changed first.
    """

    spread: Array
    peak: Array
    raised: tuple[int, ...]
    lowered: tuple[int, ...]


@torch.inference_mode()
def direct_effect(vectors: Tensor, states: Tensor, norm: nn.Module, head: Tensor, shown: int = _SHOWN) -> DirectEffect:
    """Effect of each vector on the logits.

    Args:
        vectors: (vectors, hidden) fp32, added to the stream: in bf16 most of a bias would be lost beside the state.
        states: (tokens, hidden) fp32, of the stream before the final norm.
        norm: the final norm.
        head: U of shape (vocabulary, hidden), fp32.
        shown: tokens to give at either end.
    """
    before = norm(states).mean(dim=0)
    moved = torch.stack([norm(states + vector).mean(dim=0) - before for vector in vectors])
    change = (moved @ head.T).double()
    change = change - change.mean(dim=1, keepdim=True)
    spread = change.square().mean(dim=1).sqrt()
    peak = change.abs().amax(dim=1) / spread.where(spread > 0, 1.0)
    order = change[0].argsort(descending=True).tolist()
    return DirectEffect(
        spread.cpu().numpy(),
        peak.cpu().numpy(),
        tuple(order[:shown]),
        tuple(order[::-1][:shown]),
    )


def find(subject: Subject) -> Finding:
    """Ask it of every bias that is added to the residual stream."""
    model = subject.model
    last, width = model.shape.num_layers - 1, model.shape.hidden_size
    n_blocks = -(-_TOKENS // subject.blocks.tokens.shape[1])
    stream = states_of(model, subject.blocks.tokens[:n_blocks], ()).residual[last].flatten(0, 1)[:_TOKENS]
    states, head = stream.to(model.device), model.head.float()
    norm: nn.Module = model.network.get_decoder().norm  # type: ignore[no-untyped-call]
    directions = torch.randn(_DRAWS, width, generator=torch.Generator().manual_seed(0))
    directions /= directions.norm(dim=1, keepdim=True)
    tokenizer = load_tokenizer(subject.bench.materials.model)
    rows = []
    for site, bias in subject.biases.items():
        if site.module in RESIDUAL_WRITERS:
            vectors = torch.cat([bias[None], directions * bias.norm()]).to(states)
            rows.append(_row(site, direct_effect(vectors, states, norm, head), tokenizer))
    effects = tuple(
        Effect(
            label=f"biases whose direct effect is {what} than random vectors' (p < {_LEVEL}), of {len(rows)}",
            value=sum(float(row[key]) < _LEVEL for row in rows),  # type: ignore[arg-type]
            null=chance_count(len(rows), _LEVEL),
            unit="sites",
        )
        for what, key in (("larger", "p_spread"), ("more peaked", "p_peak"))
    )
    return Finding(
        analysis=NAME,
        title="What a bias says",
        question="Which tokens does a bias raise and lower by itself, through the final norm and the head? And is that "
        "more than any vector of its norm would do?",
        null=f"{_DRAWS} random vectors of the same norm at the same place, and the count that comes out if each bias "
        "were one of them.",
        effects=effects,
        verdict=_verdict(effects, len(rows)),
        rows=tuple(rows),
    )


def _row(site: Site, effect: DirectEffect, tokenizer: PreTrainedTokenizerBase) -> Row:
    def said(ids: tuple[int, ...]) -> str:
        return " ".join(repr(tokenizer.decode([i])) for i in ids)

    spread, peak = effect.spread[1:], effect.peak[1:]
    return {
        "site": str(site),
        "spread": float(effect.spread[0]),
        "random_spread": float(np.median(spread)),
        "p_spread": p_value(float(effect.spread[0]), spread),
        "peak": float(effect.peak[0]),
        "random_peak": float(np.median(peak)),
        "p_peak": p_value(float(effect.peak[0]), peak),
        "raised": said(effect.raised),
        "lowered": said(effect.lowered),
    }


def _verdict(effects: tuple[Effect, ...], n: int) -> str:
    if not n:
        return "no bias is added to the residual stream"
    words = []
    for effect, what in zip(effects, ("larger", "more peaked"), strict=True):
        assert effect.null is not None
        beyond = effect.value > effect.null[1]
        words.append(
            f"{effect.value:.0f} of {n} {what} than random vectors, {'above' if beyond else 'at'} chance level"
        )
    return "; ".join(words)
