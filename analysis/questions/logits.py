"""What is the direct effect of a bias on the logits, through the final norm and the head and nothing in between?"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from analysis.finding import Effect, Finding, Row, number_in
from analysis.resampling import holm, p_value
from analysis.subject import RESIDUAL_WRITERS, Subject, states_of
from search_spaces.sites import Site
from trainables.model.resident import load_tokenizer
from trainables.statistics import Array

NAME = "logits"
_TOKENS = 256
_DRAWS = 200
_SHOWN = 6
_LEVEL = 0.05


class DirectEffect(NamedTuple):
    """Effect on the logits of adding vectors to the residual stream, mean over states.

    Attributes:
        spread: standard deviation over the vocabulary, in logits (nats), (vectors,). A constant would change nothing.
        peak: largest change over that spread, (vectors,): high if it targets a few tokens; zero without a spread.
        raised, lowered: some vocabulary ids for the first vector, most changed first.
    """

    spread: Array
    peak: Array
    raised: list[int]
    lowered: list[int]


@torch.inference_mode()
def direct_effect(vectors: Tensor, states: Tensor, norm: nn.Module, head: Tensor) -> DirectEffect:
    """Compute the effect of each vector on the logits.

    Args:
        vectors: (vectors, hidden) fp32, added to the stream. In bf16 rounding would lose most of a bias.
        states: (tokens, hidden) fp32, of the stream before the final norm.
        norm: the final norm.
        head: U of shape (vocabulary, hidden), fp32.
    """
    before = norm(states).mean(dim=0)
    moved = torch.stack([norm(states + vector).mean(dim=0) - before for vector in vectors])
    change = (moved @ head.T).double()
    change = change - change.mean(dim=1, keepdim=True)
    spread = change.square().mean(dim=1).sqrt()
    peak = change.abs().amax(dim=1) / spread.where(spread > 0, 1.0)
    order = change[0].argsort(descending=True).tolist()
    return DirectEffect(spread.cpu().numpy(), peak.cpu().numpy(), order[:_SHOWN], order[::-1][:_SHOWN])


def find(subject: Subject) -> Finding:
    """Measure the direct effect of every bias that is added to the residual stream."""
    model = subject.model
    last, width = model.shape.num_layers - 1, model.shape.hidden_size
    n_blocks = -(-_TOKENS // subject.blocks.tokens.shape[1])
    stream = states_of(model, subject.blocks.tokens[:n_blocks], ()).residual[last].flatten(0, 1)[:_TOKENS]
    states, head = stream.to(model.device), model.head.float()
    norm: nn.Module = model.network.get_decoder().norm  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(0)
    tokenizer = load_tokenizer(subject.bench.materials.model)
    rows: list[Row] = []
    effects: list[Effect] = []
    for part, biases in subject.parts.items():
        found = {}
        for site, bias in biases.items():
            if site.module in RESIDUAL_WRITERS:
                directions = torch.randn(_DRAWS, width, generator=generator)
                drawn = directions * (bias.norm() / directions.norm(dim=1, keepdim=True))
                found[site] = direct_effect(torch.cat([bias[None], drawn]).to(states), states, norm, head)
        chosen = _rows(found, tokenizer)
        effects += _effects(part, chosen)
        rows += [] if part else chosen
    return Finding(
        analysis=NAME,
        title="Direct effect on the logits",
        question="Which tokens does a bias raise and lower directly, through the final norm and the head, and is the "
        "effect stronger than that of an arbitrary vector of its norm?",
        null=f"{_DRAWS} random vectors of the same norm at each site. The draws of all sites, each over its site's "
        "median, form one null. Counts and p values are adjusted for all biases together (Holm): none by chance in "
        f"95% of cases.{subject.told}",
        effects=tuple(effects),
        verdict=subject.judged + _verdict(effects[:2], len(rows)),
        rows=tuple(rows),
    )


_FIGURES = {"spread": "larger", "peak": "more peaked"}


def _rows(effects: Mapping[Site, DirectEffect], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Make one row for each bias. To first order a random effect scales with the norm, so all draws share one null."""

    def said(ids: list[int]) -> str:
        return " ".join(repr(tokenizer.decode([i])) for i in ids)

    rows: list[Row] = [{"site": str(site)} for site in effects]
    for name in _FIGURES:
        medians = [float(np.median(getattr(effect, name)[1:])) for effect in effects.values()]
        scaled = [getattr(e, name) / (median or 1.0) for e, median in zip(effects.values(), medians, strict=True)]
        drawn = np.concatenate([figures[1:] for figures in scaled]) if scaled else np.empty(0)
        adjusted = holm([p_value(float(figures[0]), drawn) for figures in scaled])
        for row, effect, median, p in zip(rows, effects.values(), medians, adjusted, strict=True):
            row |= {name: float(getattr(effect, name)[0]), f"random_{name}": median, f"p_{name}": p}
    for row, effect in zip(rows, effects.values(), strict=True):
        row |= {"raised": said(effect.raised), "lowered": said(effect.lowered)}
    return rows


def _effects(part: str, rows: list[Row]) -> list[Effect]:
    return [
        Effect.count(
            f"{part}biases whose direct effect is {what} than random vectors' (Holm), of {len(rows)}",
            [number_in(row, f"p_{name}") < _LEVEL for row in rows],
        )
        for name, what in _FIGURES.items()
    ]


def _verdict(effects: list[Effect], n: int) -> str:
    if not n:
        return "no bias is added to the residual stream"
    counted = zip(effects, _FIGURES.values(), strict=True)
    return "; ".join(f"{effect.value:.0f} of {n} {what} than random vectors" for effect, what in counted)
