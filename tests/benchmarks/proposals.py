"""What a proposal costs the driver as a study grows: the searcher as Ray calls it, on its journal, without Ray.

    python -m tests.benchmarks.proposals --masks 2000

Masks of half the sites of o_proj and down_proj; a mask's score is a hash of it.
"""

import argparse
import tempfile
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace

from search_spaces.config import SpaceConfig
from search_spaces.resolve import Fingerprints
from search_spaces.trial import TrialConfig
from sweep.search.mask_search import MaskSearch
from sweep.search.task import Task
from tests.benchmarks.table import print_table
from tests.search_spaces.conftest import make_shape
from trainables.ray_trainable import COMPLETE

_LAYERS = 30
_WINDOW = 50  # proposals that a figure is the mean of


def make_searcher(directory: Path, algorithm: str, n_masks: int) -> MaskSearch:
    """A search over masks of half the sites, of which none is known."""
    modules = ["o_proj", "down_proj"]
    masks = {"family": "exactly_k", "modules": modules, "per": "site", "k": _LAYERS}
    space = {
        "name": algorithm,
        "model": {"dtype": "float32"},
        "sparsity": [0.6],
        "allocations": ["BASELINE-TEAL"],
        "plan": {"modules": modules},
        "search": {"masks": masks, "algorithm": algorithm, "n_masks": n_masks},
    }
    task = Task(
        space=SpaceConfig.model_validate(space),
        shape=make_shape(_LAYERS),
        fingerprints=Fingerprints("model", "corpus"),
        masks=SimpleNamespace(rungs=(32,), known=lambda trial: None, job=lambda trial: {"trial": trial}),
        counts=directory / f"{algorithm}.json",
    )
    return MaskSearch(task, directory / f"{algorithm}.log")


def seconds_of(searcher: MaskSearch, n_masks: int) -> list[float]:
    """Seconds that each mask costs: asked for, and told."""
    took = []
    for i in range(n_masks):
        started = time.perf_counter()
        trial: TrialConfig = searcher.suggest(str(i))["trial"]
        score = Random(trial.identity).random()
        searcher.on_trial_complete(str(i), {"val_kl_nats": score, COMPLETE: True})
        took.append(time.perf_counter() - started)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=1000)
    arguments = parser.parse_args()
    marks = [mark for mark in (100, 200, 500, 1000, 2000, 5000) if mark <= arguments.masks]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for algorithm in ("tpe", "nsga2", "random"):
            searcher = make_searcher(Path(place), algorithm, arguments.masks)
            took = seconds_of(searcher, arguments.masks)
            rows.append([algorithm, *(f"{1000 * sum(took[mark - _WINDOW : mark]) / _WINDOW:.0f}" for mark in marks)])
    title = f"ms a mask, of {2 * _LAYERS} sites, by the number of masks before it"
    print_table(title, ["algorithm", *map(str, marks)], rows)


if __name__ == "__main__":
    main()
