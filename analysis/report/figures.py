"""Defines the figure of every question, drawn from its finding alone.

To add one, write a function with the name of the question, in the order of the report. It declares blocks of panels.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from analysis.finding import Effect, Finding
from analysis.report.layout import Block, blank, figure_of
from analysis.report.panels import Effects, Lines, Sites, columns_for, effects_of, numbers, place_sites, words
from analysis.report.style import BIASES, MODULE_COLOURS, RANDOM, TEAL, bar, dashed, dot, hollow, look

_LEVEL = 0.05  # filled markers
_AFTER = "after layer "
_TAKEN_BACK, _RELATIVE = "recovered,\nfraction of TEAL's shift", "relative shift\n|h - h dense| / |h dense|"
_DPI = 120
_META = {"png": {"Software": None}, "svg": {"Date": None}}  # the same finding gives the same file


Blocks = Callable[[Finding, pd.DataFrame], list[Block]]


class Drawing(NamedTuple):
    """How a finding is drawn.

    Attributes:
        blocks: makes blocks of panels from a finding and the table of its rows.
        key: entries of the legend.
        shows: description of the figure, used as caption and as alternative text.
    """

    blocks: Blocks
    key: Sequence[Artist]
    shows: str


DRAWINGS: dict[str, Drawing] = {}
"""By name of the question, in the order of the report."""
_TEAL, _BIASES, _RANDOM = dot(TEAL, "TEAL"), dot(BIASES, "biases"), dot(RANDOM, "random vectors (null)")
_ZERO, _UNSURE = dashed("zero"), hollow(f"p of {_LEVEL} or more")


def _drawn(key: Sequence[Artist], shows: str) -> Callable[[Blocks], Blocks]:
    """Register a function as what draws the question of its name."""

    def register(blocks: Blocks) -> Blocks:
        DRAWINGS[blocks.__name__.removeprefix("_")] = Drawing(blocks, key, shows)
        return blocks

    return register


def _lines(effects: Sequence[Effect], name: Callable[[str], str] = str) -> dict[str, list[Effect | None]]:
    """Make one line for each effect, under the label that ``name`` returns."""
    shown = [effect.model_copy(update={"label": name(effect.label)}) for effect in effects]
    return {effect.label: [effect] for effect in shown}


def _unit(finding: Finding, unit: str) -> list[Effect]:
    return [effect for effect in finding.effects if effect.unit == unit]


@_drawn(
    [_TEAL, _BIASES, _RANDOM, dashed("zero: the misfit under the null")],
    "Left, the loss of TEAL, the biases and random vectors of their norms against the dense model, as a whole and "
    "in its two parts. Middle, how much of each the biases recover. Right, the shares recovered, which are the "
    "same under the null.",
)
def _perplexity(finding: Finding, rows: pd.DataFrame) -> list[Block]:
    parts = {"nll": "damage to the NLL", "kl": "of which KL", "misfit": "of which misfit"}
    damage = {label: effects_of(rows, part, words(rows, "model")) for part, label in parts.items()}
    back = _lines([e for e in finding.effects if "take back" in e.label], lambda label: label.split(", ")[-1])
    shares = _lines(_unit(finding, "fraction"))
    panels = [
        Effects("Damage", "nats per token, against dense", damage, at=0),
        Effects("Recovered by the biases", "nats per token", back, at=0),
        Effects("Shares of the damage recovered", "fraction of TEAL's damage", shares, at=0),
    ]
    return [Block(3, panels)]


@_drawn(
    [_TEAL, _BIASES, _RANDOM, dashed("as far away as TEAL")],
    "How much of TEAL's distance from the dense hidden states the biases recover, by layer: at the outputs of "
    "biased sites and in the residual stream; the distance itself; and all places of a kind together. Grey: random "
    "vectors of the same norms. Below zero, states are further away than under TEAL.",
)
def _shift(finding: Finding, rows: pd.DataFrame) -> list[Block]:
    stream = _stream(rows)
    outputs = place_sites(rows.drop(stream.index), "place")
    models = {"teal_relative": TEAL, "random_relative": RANDOM, "spon_relative": BIASES}
    recovery = {"random_recovery": RANDOM, "recovery": BIASES}
    title = "At the outputs of biased sites"
    sites = Sites(title, _TAKEN_BACK, outputs, "recovery", null=["random_recovery"], at=0, scale="cut")
    panels = [
        Lines("In the residual stream after each layer", _TAKEN_BACK, stream, recovery, at=0, scale="cut"),
        Lines("Distance from the dense model", _RELATIVE, stream, models),
    ]
    pooled = Effects("All places of a kind together", "fraction of TEAL's shift", _lines(finding.effects), at=0)
    return [Block(1, [sites]), Block(2, panels), Block(1, [pooled])]


@_drawn(
    [_BIASES, _RANDOM, dashed("nothing recovered")],
    "Fraction of TEAL's KL that the biases recover, by kind of token. Grey: random vectors of the same norms. "
    "Under each bin, TEAL's mean KL there.",
)
def _where(finding: Finding, rows: pd.DataFrame) -> list[Block]:
    by = np.array(words(rows, "by"))
    panels = []
    for name in dict.fromkeys(by.tolist()):
        some = rows[by == name]
        kl = numbers(some, "teal_kl_nats")
        bins = [f"{label}\nTEAL {nats:.3g} nats" for label, nats in zip(words(some, "bin"), kl, strict=True)]
        biases, random = (
            effects_of(some, column, [model] * len(some))
            for column, model in (("recovered", "biases"), ("random_recovered", "random vectors"))
        )
        lines = dict(zip(bins, zip(biases, random, strict=True), strict=True))
        panels.append(Effects(f"By {name}", "fraction of TEAL's KL recovered", lines, at=0))
    return [Block(2, panels)]


@_drawn(
    [_TEAL, _BIASES, bar("shuffled labels")],
    "How far TEAL and the biases are from the dense model by category of prompt; how much of that differs "
    "between categories, with the range under shuffled labels in grey; and, along the layers, relative distance "
    "and linear CKA with the dense states of each category.",
)
def _categories(finding: Finding, rows: pd.DataFrame) -> list[Block]:
    of = np.array(words(rows, "category"))
    names = list(dict.fromkeys(of.tolist()))
    found = {effect.label: effect for effect in finding.effects}
    means = {name: [found.get(f"{name}: relative shift, {model}") for model in ("TEAL", "biases")] for name in names}
    between = _lines([e for e in finding.effects if e.null is not None], lambda label: label.partition(":")[0])
    upper = [
        Effects("Mean over layers and prompts", "relative shift, |h - h dense| / |h dense|", means),
        Effects("Variance of shifts between categories", "fraction of the variance over prompts", between),
    ]
    blocks = [Block(2, upper)]
    columns = min(5, len(names))
    for start in range(0, len(names), columns):
        some = names[start : start + columns]
        for what, label in (("relative", _RELATIVE), ("cka", "linear CKA\nwith dense")):
            colours = {f"teal_{what}": TEAL, f"spon_{what}": BIASES}
            titles = some if what == "relative" else [""] * len(some)
            panels = [Lines(t, label, rows[of == name], colours) for t, name in zip(titles, some, strict=True)]
            blocks.append(Block(columns, panels, alike=True))
    return blocks


@_drawn(
    [_UNSURE, bar("chance: mean to 95th percentile; range of the null"), dashed("chance, on average")],
    "For each biased site, the largest cosine of its bias with a leading component, and the share of the bias in "
    "the span of all of them. Grey: the same for random vectors of that width.",
)
def _pca(finding: Finding, rows: pd.DataFrame) -> list[Block]:
    rows = place_sites(rows)
    of = list(zip(words(rows, "where"), words(rows, "centred"), strict=True))
    panels = []
    for place, centred in dict.fromkeys(of):
        some = rows[[pair == (place, centred) for pair in of]]
        title = f"{place}, {'centred' if centred == 'True' else 'not centred'}"
        sure, chance = numbers(some, "p") < _LEVEL, ["chance_mean", "chance_95"]
        over = "share inside the span,\ntimes chance"
        panels += [
            Sites(title, "largest |cosine|", some, "largest_cosine", sure, chance, scale="from zero"),
            Sites(title, over, some, "share_over_chance", at=1, scale="log"),
        ]
    counts = _lines(_unit(finding, "sites"), lambda label: re.sub(": .*(?=, of)", "", label))
    ratios = _lines(_unit(finding, "ratio"), lambda label: label.partition(":")[0])
    effects = [
        Effects("Sites whose largest cosine is beyond chance", "sites", counts),
        Effects("Share inside the span, mean over sites", "times chance", ratios, at=1),
    ]
    return [Block(2, panels), Block(2, effects)]


@_drawn(
    [hollow("like a Gaussian"), dashed("Gaussian around zero"), bar("none by chance")],
    "Moments of each bias's entries by layer, with sampling intervals. Dashed: a Gaussian around zero.",
)
def _moments(finding: Finding, rows: pd.DataFrame) -> list[Block]:
    rows = place_sites(rows)
    tails = (numbers(rows, "p_heavier") < _LEVEL / 2) | (numbers(rows, "p_lighter") < _LEVEL / 2)
    signs = numbers(rows, "p_sign") < _LEVEL
    panels = [
        Sites("Tails", "excess kurtosis", rows, "excess_kurtosis", tails, at=0, scale="symlog"),
        Sites("Signs", "fraction above zero", rows, "positive_fraction", signs, at=0.5),
        Sites("Mean", "mean of the entries", rows, "mean", at=0),
        Sites("Spread", "standard deviation", rows, "sd"),
        Sites("Size", "Euclidean norm", rows, "norm"),
        Sites("Largest entry", "largest |entry|", rows, "max_abs"),
    ]
    counts = Effects("Biases that clearly differ from a Gaussian around zero", "sites", _lines(finding.effects))
    return [Block(columns_for(rows), panels), Block(1, [counts])]


@_drawn(
    [bar("no trend"), _ZERO],
    "Norm of each bias by layer, as it is, over the norm of its site's output and over the norm of the sparsity "
    "error there; and their rank correlations with depth, with the range without a trend in grey.",
)
def _norms(finding: Finding, rows: pd.DataFrame) -> list[Block]:
    rows = place_sites(rows)
    output, error = "|b| / mean |W x|", "|b| / mean |W (x - S(x))|"
    whole = Sites("Norm of the bias", "Euclidean norm", rows, "norm", scale="from zero")
    scaled = [
        Sites("Over the norm of the site's output", output, rows, "norm_over_output", scale="from zero"),
        Sites("Over the norm of the sparsity error", error, rows, "norm_over_error", scale="from zero"),
    ]
    trends = _lines(finding.effects, lambda label: label.removesuffix(" with depth, Spearman"))
    effects = Effects("Rank correlation with depth", "Spearman correlation", trends, at=0)
    return [Block(1, [whole]), Block(2, scaled), Block(1, [effects])]


@_drawn(
    [_UNSURE, dot(RANDOM, "random vectors, median (null)", "_"), bar("none by chance")],
    "Size and peak of the effect of each bias on the logits through the final norm and the head. Grey: the median "
    "of random vectors of its norm.",
)
def _logits(finding: Finding, rows: pd.DataFrame) -> list[Block]:
    rows = place_sites(rows)
    size, peak = "standard deviation over\nthe vocabulary, nats", "largest change over\nthat standard deviation"
    sure = {name: numbers(rows, f"p_{name}") < _LEVEL for name in ("spread", "peak")}
    panels = [
        Sites("Size of the effect", size, rows, "spread", sure["spread"], ["random_spread"], scale="log"),
        Sites("Peak of the effect", peak, rows, "peak", sure["peak"], ["random_peak"]),
    ]
    counts = Effects("Biases beyond random vectors", "sites", _lines(finding.effects))
    return [Block(1, panels), Block(1, [counts])]


@_drawn(
    [_BIASES, _RANDOM, _ZERO],
    "How much each bias lowers the KL, averaged over runs with the others on or off; its cosine with the mean "
    "error of its site; and the KL of all biases, scaled or in parts.",
)
def _worth(finding: Finding, rows: pd.DataFrame) -> list[Block]:
    variant = np.array(words(rows, "variant"))
    sites = place_sites(rows[variant == "site"])
    parts = _lines(
        _unit(finding, "nats"), lambda label: label.removeprefix("KL, ").removesuffix(" minus TEAL").rstrip(",")
    )
    takes, lies = "nats, mean over the\nothers on and off", "cosine with the mean error\nof the site"
    change, scaled = "KL minus TEAL's, nats", _scaled(rows[np.char.startswith(variant, "times ")])
    panels = [
        Sites("How much this bias lowers the KL", takes, sites, "kl_taken_off", at=0),
        Sites("Direction", lies, sites, "mean_error_cosine", at=0),
    ]
    whole = [
        Lines("All biases, scaled", change, scaled, {"kl_minus_teal": BIASES}, "factor", at=0),
        Effects("All biases, in parts", change, parts, at=0),
    ]
    return [Block(columns_for(sites), panels), Block(2, whole)]


def _scaled(rows: pd.DataFrame) -> pd.DataFrame:
    """Tabulate KL against the factor of all biases: zero is TEAL alone, one the biases as they are."""
    names = ["kl_minus_teal", "kl_minus_teal_low", "kl_minus_teal_high"]
    teal = pd.DataFrame({"factor": [0.0]} | {name: [0.0] for name in names})
    if rows.empty:
        return teal
    factors = [float(name.removeprefix("times ")) for name in words(rows, "variant")]
    columns = {name: numbers(rows, name) for name in names}
    return pd.concat([teal, pd.DataFrame({"factor": factors} | columns)]).sort_values("factor")


@_drawn(
    [_TEAL, bar("predicted by the curves; layers shifted"), _ZERO],
    "KL cost of each part of the plan, beside the prediction of the Fisher curves; level, predicted cost and gain "
    "of the bias of each site; and the rank correlations between these.",
)
def _levels(finding: Finding, rows: pd.DataFrame) -> list[Block]:
    what = np.array(words(rows, "what"))
    parts, sites = rows[what == "part"], place_sites(rows[what == "site"], "place")
    measured, predicted = (effects_of(parts, name, ["TEAL"] * len(parts)) for name in ("kl_nats", "predicted_nats"))
    lines = {
        name: [kl and price and kl.model_copy(update={"null": price.interval or (price.value, price.value)})]
        for name, kl, price in zip(words(parts, "place"), measured, predicted, strict=True)
    }
    correlations = _lines(_unit(finding, "correlation"), lambda label: label.partition(", ")[2])
    panels = [
        Sites("Level", "fraction zeroed", sites, "level", scale="from zero"),
        Sites("Predicted cost", "nats per position", sites, "predicted_nats", scale="from zero"),
        Sites("Gain of the bias, first order", "nats per position", sites, "gain_nats", at=0),
    ]
    part = Effects("Cost of each part, with the others sparse or dense", "KL, nats per position", lines, at=0)
    whole = Effects("The whole plan", "KL, nats per position", _lines(_unit(finding, "nats")), at=0)
    ranks = Effects("Rank correlations", "Spearman correlation", correlations, at=0)
    return [Block(1, [part]), Block(columns_for(sites), panels), Block(2, [whole, ranks])]


@_drawn(
    [
        dot(BIASES, "mean over shared sites", line="-"),
        dot(BIASES, "a site", "|"),
        bar("mean, layers shifted"),
        _ZERO,
    ],
    "Cosines of the biases of every pair of trials on their shared sites, one tick for each site, and their mean. "
    "Grey: the mean if layers are shifted.",
)
def _cross(finding: Finding, rows: pd.DataFrame) -> list[Block]:
    of = list(zip(words(rows, "one"), words(rows, "other"), words(rows, "relation"), strict=True))
    trials = list(dict.fromkeys(name for one, other, _ in of for name in (one, other)))
    pairs = sorted(dict.fromkeys(of), key=lambda pair: pair[2])
    labels = [f"{trials.index(one) + 1} and {trials.index(other) + 1}: {how}" for one, other, how in pairs]
    found = {effect.label: effect for effect in finding.effects}
    names = [dot("none", f"{place} is {trial}") for place, trial in enumerate(trials, 1)]
    panels = []
    for column, title, what, key in (
        ("cosine", "Whole biases", "mean cosine", names),
        ("moved_cosine", "What training added to the start", "mean cosine of what training added", []),
    ):
        means = [[found.get(f"{one} and {other} ({how}): {what}")] for one, other, how in pairs]
        single = [numbers(rows, column)[[site == pair for site in of]] for pair in pairs]
        panels.append(Effects(title, "cosine", dict(zip(labels, means, strict=True)), single, at=0, key=key))
    return [Block(2, panels)]


def draw(finding: Finding) -> Figure:
    """Draw the figure of a finding.

    Raises:
        SponError: if its rows do not fit its question.
    """
    drawing = DRAWINGS[finding.analysis]
    with look():
        if finding.rows:
            blocks = drawing.blocks(finding, pd.DataFrame(list(finding.rows)))
            return figure_of(finding.title, finding.verdict, blocks, drawing.key)
        figure = blank(finding.title, finding.verdict, 0.6)
        figure.text(0.5, 0.2, "no rows to draw", ha="center", color="#555555")
        return figure


def draw_together(findings: Mapping[str, Finding], text: str) -> Figure:
    """Draw the recovery along the layers of several trials, one curve each.

    Args:
        findings: on ``shift``, by the trial's name.
        text: that they all read, in words.

    Raises:
        SponError: if rows do not fit the question.
    """
    colours = dict(zip(findings, itertools.cycle(MODULE_COLOURS.values()), strict=False))
    columns = []
    for name, finding in findings.items():
        stream = _stream(pd.DataFrame(list(finding.rows))).set_index("layer")
        ends = [end for end in ("", "_low", "_high") if f"recovery{end}" in stream]
        columns += [stream[f"recovery{end}"].rename(f"{name}{end}") for end in ends]
    rows = pd.concat(columns, axis=1).sort_index().reset_index()
    panel = Lines("In the residual stream after each layer", _TAKEN_BACK, rows, colours, at=0, scale="cut")
    names = [dot(colour, name, ".", line="-") for name, colour in colours.items()]
    with look():
        return figure_of("Recovery by the biases of each trial", text, [Block(1, [panel])], names)


def _stream(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``shift`` from the residual stream, with their ``layer``."""
    place = np.array(words(rows, "place"))
    after = np.char.startswith(place, _AFTER)
    return rows[after].assign(layer=[int(name.removeprefix(_AFTER)) for name in place[after].tolist()])


def write_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as ``STEM.png`` and ``STEM.svg``, and return these files in this order."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in _META]
    with look():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # both files use the layout found above
        for file, meta in zip(files, _META.values(), strict=True):
            figure.savefig(file, dpi=_DPI, metadata=meta)
    return files
