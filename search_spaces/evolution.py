"""An evolutionary search that keeps the budget: the rival of the samplers, after EvoPress (arXiv:2410.14649).

A child is a parent in which a few chosen units have left and as many others entered. A generation is selected in
stages: many children are scored on little text, fewer on more. The parents join for the last stage, so that scores are
only ever compared on the same text. This class proposes and selects; who scores the masks is not its business.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from search_spaces.errors import SponError
from search_spaces.masks import Unit
from search_spaces.sites import Site

MOST_SWAPS = 3  # units that may leave in one child; the smaller of two draws, so that most children differ by one
Genome = tuple[int, ...]  # places of the chosen units, ascending


class Evolution:
    """Ask for masks, tell their scores, stage after stage.

    Args:
        units: what is chosen or left as one, in canonical order (``ExactlyK.units``).
        k: units in every mask.
        population_size: masks that survive a generation.
        offspring: new masks in a generation.
        stages: validation blocks of each stage, growing.
        seed: of all draws.
        start: masks of k units that join the first generation's last stage, such as the named allocations.

    Attributes:
        generation: complete generations so far.
        stage: index into ``stages`` of the masks that ``ask`` gives.

    Raises:
        SponError: if there are no more masks than survive, or a start mask does not have k units.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        k: int,
        population_size: int,
        offspring: int,
        stages: Sequence[int],
        seed: int,
        start: Sequence[tuple[Site, ...]] = (),
    ) -> None:
        self._units, self._k = tuple(units), k
        self._population_size, self._offspring, self._stages = population_size, offspring, tuple(stages)
        self._rng = np.random.default_rng(seed)
        self._seed = seed
        self._parents: list[Genome] = list(dict.fromkeys(self._genome(mask) for mask in start))
        self._scores: list[float] = []
        masks = math.comb(len(self._units), k) if k <= len(self._units) else 0
        if masks <= max(population_size, len(self._parents)):
            got = f"{masks} of {k} out of {len(self._units)}"
            raise SponError(f"evolution must have more masks than survive, but got {got} (at search.masks.k)")
        self.generation = 0
        self.stage = 0
        self._pending = self._entering(self._children())

    @property
    def blocks(self) -> int:
        """Validation blocks on which the masks of ``ask`` are to be scored."""
        return self._stages[self.stage]

    @property
    def population(self) -> list[tuple[tuple[Site, ...], float]]:
        """The survivors of the last complete generation with their scores in its last stage, best first."""
        return [(self._mask(genome), score) for genome, score in zip(self._parents, self._scores, strict=False)]

    def ask(self) -> list[tuple[Site, ...]]:
        """The masks to score on ``blocks`` blocks, all different, sites in canonical order; the same until told."""
        return [self._mask(genome) for genome in self._pending]

    def tell(self, scores: Sequence[float]) -> None:
        """Take the scores of the masks of ``ask``, lower is better, and go on to the next stage or generation.

        Raises:
            ValueError: if there is not one finite score for each mask.
        """
        if len(scores) != len(self._pending) or not np.isfinite(scores).all():
            raise ValueError(f"there must be {len(self._pending)} finite scores, but got {list(scores)}")
        order = np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")  # equal scores stay in order
        ranked = [self._pending[place] for place in order]
        if self.stage + 1 < len(self._stages):
            self.stage += 1
            self._pending = self._entering(ranked[: self._entrants(self.stage)])
            return
        self._parents = ranked[: self._population_size]
        self._scores = [float(scores[place]) for place in order[: self._population_size]]
        self.generation, self.stage = self.generation + 1, 0
        self._pending = self._entering(self._children())

    def _entrants(self, stage: int) -> int:
        """Children that reach a stage: from all of them down towards the population, by equal factors."""
        share = math.pow(self._population_size / self._offspring, stage / len(self._stages))
        return max(self._population_size, round(self._offspring * share))

    def _entering(self, children: list[Genome]) -> list[Genome]:
        last = self.stage == len(self._stages) - 1
        return children + [parent for parent in self._parents if last and parent not in children]

    def _children(self) -> list[Genome]:
        """New masks, none of them a parent: random ones first, then swaps. Fewer where the space is nearly used up."""
        children: dict[Genome, None] = {}
        tries = 0
        while len(children) < self._offspring and (tries < 20 * self._offspring or not children):
            child = self._swapped() if self.generation else self._drawn()
            if child not in self._parents:
                children[child] = None
            tries += 1
        return list(children)

    def _drawn(self) -> Genome:
        return tuple(sorted(self._rng.choice(len(self._units), self._k, replace=False).tolist()))

    def _swapped(self) -> Genome:
        parent = self._parents[int(self._rng.integers(len(self._parents)))]
        others = [place for place in range(len(self._units)) if place not in parent]
        swaps = min(*self._rng.integers(1, MOST_SWAPS + 1, size=2).tolist(), self._k, len(others))
        leave = self._rng.choice(parent, swaps, replace=False).tolist()
        enter = self._rng.choice(others, swaps, replace=False).tolist()
        return tuple(sorted(set(parent) - set(leave) | set(enter)))

    def _mask(self, genome: Genome) -> tuple[Site, ...]:
        return tuple(site for place in genome for site in self._units[place])

    def _genome(self, mask: tuple[Site, ...]) -> Genome:
        genome = tuple(place for place, unit in enumerate(self._units) if set(unit) <= set(mask))
        if len(genome) != self._k or self._mask(genome) != tuple(mask):
            got = ", ".join(str(site) for site in mask)
            raise SponError(f"a start mask must be {self._k} of the units to choose from, but got {got} (at evolution)")
        return genome

    def _settings(self) -> dict[str, Any]:
        return {
            "units": [[str(site) for site in unit] for unit in self._units],
            "k": self._k,
            "population_size": self._population_size,
            "offspring": self._offspring,
            "stages": list(self._stages),
            "seed": self._seed,
        }

    def state(self) -> dict[str, Any]:
        """Everything that ``restore`` needs to go on, fit for JSON."""
        return {
            "settings": self._settings(),
            "generation": self.generation,
            "stage": self.stage,
            "pending": [list(genome) for genome in self._pending],
            "parents": [list(genome) for genome in self._parents],
            "scores": self._scores,
            "rng": self._rng.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            SponError: if it is the state of a search with other settings.
        """
        mine, theirs = self._settings(), state["settings"]
        other = next((key for key in mine if mine[key] != theirs[key]), None)
        if other is not None:
            rule = f"a resumed evolution must have the {other} that it began with"
            raise SponError(f"{rule}, but got {mine[other]} in place of {theirs[other]} (at search)")
        self.generation, self.stage = state["generation"], state["stage"]
        self._pending = [tuple(genome) for genome in state["pending"]]
        self._parents = [tuple(genome) for genome in state["parents"]]
        self._scores = list(state["scores"])
        self._rng.bit_generator.state = state["rng"]
