"""A small finding of every question, written by hand, and a directory of results that holds them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.finding import Analysis, Cell, Effect, Examined, Finding, Row
from search_spaces.files import write_config

SITES = ("0.q_proj", "0.down_proj", "2.down_proj")
EVIL = "<script>alert('&')</script> 5% of $x_1$"


def spread(name: str, value: float) -> Row:
    return {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}


def effect(label: str, unit: str, value: float = 0.5, null: tuple[float, float] | None = None) -> Effect:
    return Effect(label=label, value=value, interval=(value - 0.25, value + 0.25), null=null, unit=unit)


def count(label: str) -> Effect:
    return Effect(label=f"{label}, of 3", value=2, null=(0, 1), unit="sites")


def sites(**cells: Cell) -> list[Row]:
    return [{"site": site, **cells} for site in SITES]


def perplexity() -> tuple[list[Row], list[Effect]]:
    models = {"TEAL": 0.3, "biases": 0.2, "random vectors": 0.35}
    rows = [
        {"model": model} | spread("nll", nll) | spread("kl", nll + 0.1) | spread("misfit", -0.1)
        for model, nll in models.items()
    ]
    back = [effect(f"biases take back, {part}", "nats") for part in ("NLL", "KL", "misfit")]
    return rows, [*back, effect("share of the KL recovered", "fraction")]


def shift() -> tuple[list[Row], list[Effect]]:
    rows = []
    for place in (*SITES, "after layer 0", "after layer 1", "after layer 2"):
        row: Row = {"place": place, "teal_relative": 0.3, "spon_relative": 0.2, "random_relative": 0.35}
        rows.append(row | spread("recovery", 0.4) | spread("random_recovery", -3.0))
    unit = "fraction of TEAL's shift"
    return rows, [effect("site outputs, biases", unit), effect("site outputs, random vectors", unit)]


def where() -> tuple[list[Row], list[Effect]]:
    rows = [
        {"by": by, "bin": label, "share": 0.5, "teal_kl_nats": 0.125}
        | spread("recovered", 0.4)
        | spread("random_recovered", -0.1)
        for by, bins in (("position", ("0 to 7", "8 to 15")), ("entropy", ("low", "high")), ("category", ("math",)))
        for label in bins
    ]
    return rows, [effect("position: recovery in the last bin minus the first", "fraction", null=(0, 0))]


def categories() -> tuple[list[Row], list[Effect]]:
    names = ("math", "coding", "safety", "facts", "sense", EVIL)
    rows = [
        {"category": name, "layer": layer}
        | spread("teal_relative", 0.3)
        | spread("spon_relative", 0.2)
        | spread("teal_cka", 0.8)
        | spread("spon_cka", 0.9)
        for name in names
        for layer in range(3)
    ]
    tested = effect("TEAL: variance of shifts between categories", "fraction", null=(0.1, 0.2))
    means = [effect(f"{name}: relative shift, {mode}", "fraction") for name in names for mode in ("TEAL", "biases")]
    return rows, [tested, Effect(label="TEAL: p of that", value=0.03), *means]


def pca() -> tuple[list[Row], list[Effect]]:
    rows: list[Row] = []
    for centred in (True, False):
        row: Row = {"where": "output", "centred": centred, "largest_cosine": 0.2, "share_over_chance": 3.0}
        rows += sites(**row, chance_mean=0.1, chance_95=0.15, p=0.2 if centred else 0.01)
    ratio = effect("output, centred: share of the bias in the span, over chance", "ratio", 3.0, (0.5, 1.5))
    return rows, [count("output, centred: sites whose largest cosine is beyond chance"), ratio]


def moments() -> tuple[list[Row], list[Effect]]:
    row: Row = {"norm": 2.0, "max_abs": 1.0, "p_heavier": 0.01, "p_lighter": 1.0, "p_sign": 0.5}
    for name, value in (("mean", 0.0), ("sd", 0.1), ("excess_kurtosis", 90.0), ("positive_fraction", 0.5)):
        row |= spread(name, value)
    return sites(**row), [count("biases with heavier tails than a Gaussian")]


def norms() -> tuple[list[Row], list[Effect]]:
    rows = sites(norm=2.0, norm_over_output=0.1, norm_over_error=None)
    return rows, [effect("down_proj: norm with depth, Spearman", "correlation", null=(-0.4, 0.4))]


def logits() -> tuple[list[Row], list[Effect]]:
    figures: Row = {"spread": 0.02, "random_spread": 0.01, "p_spread": 0.01}
    figures |= {"peak": 5.0, "random_peak": 4.0, "p_peak": 0.3}
    return sites(**figures, raised=EVIL, lowered="' a'"), [count("biases whose direct effect is larger")]


def worth() -> tuple[list[Row], list[Effect]]:
    row: Row = {"variant": "site", "mean_error_cosine": None}
    row |= spread("kl_taken_off", 0.2)
    whole: list[Row] = [
        {"variant": variant, "site": "all"} | spread("kl_minus_teal", value)
        for variant, value in (("times 0.5", -0.2), ("times 1.0", -0.4), ("times 2.0", 0.3), ("all random", 0.1))
    ]
    effects = [effect("KL, all biases minus TEAL", "nats", -0.4), effect("KL, all random minus TEAL", "nats", 0.1)]
    return sites(**row) + whole, [*effects, count("sites whose bias clearly lowers the KL")]


def levels() -> tuple[list[Row], list[Effect]]:
    empty: Row = {"level": None, "gain_nats": None, "p_differs": None}
    rows = [
        {"what": "part", "place": name, "n_sites": 1}
        | spread("predicted_nats", price)
        | empty
        | spread("kl_nats", 0.15)
        for name, price in (("q_proj 0-14", 0.1), ("down_proj 15-29", 0.3))
    ]
    none: Row = dict.fromkeys(spread("kl_nats", 0.0))
    cost: Row = {"n_sites": 1, "level": 0.5, "gain_nats": 0.002, "p_differs": None} | spread("predicted_nats", 0.01)
    rows += [{"what": "site", "place": site} | cost | none for site in SITES]
    effects = [effect("KL of the whole plan, TEAL", "nats"), count("parts that clearly cost more")]
    return rows, [*effects, effect("rank correlation, gain with level", "correlation", 0.3, (-0.4, 0.4))]


def cross() -> tuple[list[Row], list[Effect]]:
    rows: list[Row] = []
    effects = []
    for one, other, how in (("a", "b", "other allocation"), ("a", "c", "other data order")):
        rows += sites(one=one, other=other, relation=how, cosine=0.9, moved_cosine=0.5 if other == "b" else 0.7)
        name = f"{one} and {other} ({how})"
        effects.append(effect(f"{name}: mean cosine", "cosine", 0.9, (0.1, 0.2)))
        effects.append(effect(f"{name}: mean cosine of what training added", "cosine", 0.5))
    return rows, effects


MAKERS = (perplexity, shift, where, categories, pca, moments, norms, logits, worth, levels, cross)


@pytest.fixture(scope="session")
def findings() -> dict[str, Finding]:
    """By question."""
    found = {}
    for make in MAKERS:
        rows, effects = make()
        found[make.__name__] = Finding(
            analysis=make.__name__,
            title=f"On {make.__name__}",
            question="Is it so?",
            null="Nothing.",
            effects=tuple(effects),
            verdict=f"so it is, {EVIL}",
            rows=tuple(rows),
        )
    return found


def subject(name: str) -> Examined:
    return Examined(
        name=name,
        identity=name,
        allocation="TOP-50",
        plan="down_proj@0.60",
        seed=7,
        split="validation",
        n_blocks=8,
        text="t",
    )


@pytest.fixture(scope="session")
def make_results(findings: dict[str, Finding]) -> Callable[[Path], Path]:
    """Write two trials, the second with one finding, and their comparison into a directory."""

    def make(directory: Path) -> Path:
        trials = {"alpha": ("moments", "logits", "perplexity"), "beta": ("where",)}
        for name, questions in trials.items():
            analysis = Analysis(subjects=(subject(name),), findings=tuple(findings[q] for q in questions))
            write_config(analysis, directory / name / "analysis.json")
        compared = Analysis(subjects=tuple(map(subject, trials)), findings=(findings["cross"],))
        write_config(compared, directory / "comparison.json")
        return directory

    return make


@pytest.fixture
def results(make_results: Callable[[Path], Path], tmp_path: Path) -> Path:
    return make_results(tmp_path)
