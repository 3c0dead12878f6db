"""Evolution as a searcher of Ray Tune."""

import pickle
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FixedTrial
from ray.tune.search import Searcher

from search_spaces.evolution import Evolution
from search_spaces.masks import ExactlyK
from search_spaces.schema import TrialConfig
from search_spaces.search import named_suggestions, search_of, trial_of_suggestion
from search_spaces.search_config import EvolutionConfig
from search_spaces.sites import Site
from sweep.search.task import Counts, Task
from trainables.ray_trainable import FAILURE

_GIVE_UP = 5
"""Generations in a row without a mask that was not seen before, after which a space counts as used up."""


@dataclass
class _Stage:
    """Masks of one stage of a generation.

    Attributes:
        trials: the masks in the order in which evolution asked for them.
        waiting: places of those that nobody has been given.
        scores: by place.
    """

    trials: list[TrialConfig]
    waiting: list[int]
    scores: dict[int, float] = field(default_factory=dict)


class EvolutionSearch(Searcher):
    """``Evolution`` as a searcher of Ray Tune: the masks of a stage run side by side, and the next stage waits for all.

    Args:
        task: what is searched, with a proxy.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(metric="val_kl_nats", mode="min")
        search = search_of(task.space)
        assert isinstance(search.algorithm, EvolutionConfig)
        assert isinstance(search.masks, ExactlyK)
        self._task, self._budget = task, search.n_masks
        self._counts = Counts()
        units = search.masks.units(task.shape)
        self._evolution = Evolution(
            units,
            search.masks.k,
            search.algorithm.population_size,
            search.algorithm.offspring,
            task.rungs,
            search.seed,
            self._named(),
        )
        self._places: dict[str, int] = {}
        self._seen: set[str] = set()
        self._idle = self._seen_before = 0
        self._stage = self._next_stage()

    def _named(self) -> list[tuple[Site, ...]]:
        """The space's own allocations that are of the family."""
        found = map(self._trial_of, named_suggestions(self._task.space, self._task.shape))
        return [tuple(Site.parse(site) for site in trial.sites) for trial in found]

    def suggest(self, trial_id: str) -> Any:
        """Ray's config of the next mask of the stage; None while the last ones of it are under way."""
        while not self._stage.waiting and len(self._stage.scores) == len(self._stage.trials):
            self._evolution.tell([self._stage.scores[place] for place in range(len(self._stage.trials))])
            if self._evolution.stage == 0 and self._is_over():
                self._counts.ended = True
                self._note()
                return Searcher.FINISHED
            self._stage = self._next_stage()
        if not self._stage.waiting:
            return None
        place = self._stage.waiting.pop(0)
        self._places[trial_id] = place
        self._note()
        return self._task.job(self._stage.trials[place], (self._evolution.blocks,))

    def _is_over(self) -> bool:
        """At the end of a generation: the budget is spent, or the last generations had only masks seen before."""
        self._idle = 0 if len(self._seen) > self._seen_before else self._idle + 1
        self._seen_before = len(self._seen)
        return self._counts.new >= self._budget or self._idle >= _GIVE_UP

    def _next_stage(self) -> _Stage:
        """The masks of the evolution's stage; those that are known need not run."""
        trials = [self._trial_of(self._parameters_of(mask)) for mask in self._evolution.ask()]
        stage = _Stage(trials, [])
        for place, trial in enumerate(trials):
            known = self._task.known(trial, self._evolution.blocks)
            if known is None:
                stage.waiting.append(place)
            else:
                stage.scores[place] = known[0]
            first = trial.identity not in self._seen
            self._counts.new += first and known is None
            self._counts.repeated += first and known is not None
            self._seen.add(trial.identity)
        return stage

    def _note(self) -> None:
        self._counts.open = len(self._places)
        self._counts.write(self._task.counts)

    def _parameters_of(self, mask: tuple[Site, ...]) -> dict[str, Any]:
        parameters = search_of(self._task.space).masks.params_of(mask, self._task.shape)
        assert parameters is not None
        return parameters

    def _trial_of(self, parameters: dict[str, Any]) -> TrialConfig:
        task = self._task
        return trial_of_suggestion(task.space, FixedTrial(parameters), task.shape, task.fingerprints)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Keep the score; a mask that failed is worse than any other."""
        place = self._places.pop(trial_id, None)
        if place is not None:
            failed = error or not result or FAILURE in result
            self._stage.scores[place] = 1e9 if failed else float(result["val_kl_nats"])  # type: ignore[index]
        self._note()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A stage has one result a mask, which comes with its end."""

    def save(self, checkpoint_path: str) -> None:
        """Write everything."""
        with open(checkpoint_path, "wb") as file:
            pickle.dump(self.__dict__, file)

    def restore(self, checkpoint_path: str) -> None:
        """Go on from what ``save`` wrote."""
        with open(checkpoint_path, "rb") as file:
            self.__dict__.update(pickle.load(file))
        self._note()
