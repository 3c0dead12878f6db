"""The Ray Tune searcher that gets masks from Optuna and skips known ones."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher

from search_spaces.samplers import make_sampler
from search_spaces.search import named_suggestions, search_of, trial_of_suggestion
from search_spaces.trial import TrialConfig
from sweep.search.task import Task
from sweep.store.counts import Counts
from trainables.ray_trainable import COMPLETE, FAILURE

_IDENTITY, _LOST = "spon.trial", "spon.lost"
"""User attributes of a study's trial: the identity of its mask once given out, and the lost trial that it replaces."""
PATIENCE = 10
"""Known masks in a row that a sampler may propose before masks are drawn at random."""
_GIVE_UP = 300
"""Known masks in a row, most of them random, after which a space counts as exhausted."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_journal(file: Path) -> JournalStorage:
    """Open Optuna's journal of a search."""
    return JournalStorage(JournalFileBackend(str(file.resolve())))


class MaskSearch(Searcher):
    """Asks an Optuna study for masks, and tells it their outcomes.

    Each suggestion becomes a validated trial, and the space's own allocations come first. A mask that was evaluated
    before is told to the sampler and not run. A mask that a scheduler stopped is told as pruned, never with its score,
    because other scores are on more text or after more training.

    Attributes:
        given: identities of masks that earlier processes gave out for evaluation.
    """

    def __init__(self, task: Task, journal: Path) -> None:
        super().__init__()
        search = search_of(task.space)
        self._task, self._budget, self._objectives = task, search.n_masks, search.objectives
        self._counts = Counts.read(task.counts)
        self._sampler, self._stray = make_sampler(search.algorithm, search.seed), RandomSampler(seed=search.seed)
        self._under_way: dict[str, str] = {}
        self._asked: dict[str, list[Trial]] = {}
        self._study = optuna.create_study(
            study_name=task.space.name,
            storage=open_journal(journal),
            directions=["minimize"] * len(search.objectives),
            load_if_exists=True,
        )
        trials = self._study.get_trials(deepcopy=False)
        given = [trial for trial in trials if _IDENTITY in trial.user_attrs]
        lost = {trial.user_attrs[_LOST] for trial in trials if _LOST in trial.user_attrs}
        over = [trial for trial in given if trial.state.is_finished() and trial.number not in lost]
        self._ended = {t.user_attrs[_IDENTITY]: t.state for t in over if t.state is not TrialState.COMPLETE}
        self.given = {trial.user_attrs[_IDENTITY] for trial in given}
        self._counts.new = len(over)  # the file may be older than the study
        for parameters in named_suggestions(task.space, task.shape):  # an earlier process may have died in this loop
            self._study.enqueue_trial(parameters, skip_if_exists=True)
        self._give_up_open(lost)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing, because the journal has everything."""

    def suggest(self, trial_id: str) -> Any:
        """Ray's config of the next mask to evaluate, ``None`` to wait, or ``FINISHED``."""
        if self._counts.new >= self._budget:
            return None if self._under_way else self._end()  # a mask under way may be lost and proposed again
        for repeated in range(_GIVE_UP):
            strays = repeated >= PATIENCE
            self._study.sampler = self._stray if strays else self._sampler
            suggestion = self._study.ask()
            trial = trial_of_suggestion(self._task.space, suggestion, self._task.shape, self._task.fingerprints)
            if not self._tell_known(suggestion, trial):
                self._counts.new += 1
                self._counts.strayed += strays
                self._counts.ended = self._counts.new >= self._budget  # Ray does not ask again
                suggestion.set_user_attr(_IDENTITY, trial.identity)
                self._under_way[trial_id], self._asked[trial.identity] = trial.identity, [suggestion]
                self._note()
                return self._task.masks.job(trial)
        return self._end()

    def _end(self) -> str:
        self._counts.ended = True
        self._note()
        return str(Searcher.FINISHED)

    def _note(self) -> None:
        self._counts.open = len(self._under_way)
        self._counts.write(self._task.counts)

    def _tell_known(self, suggestion: Trial, trial: TrialConfig) -> bool:
        """Handle a mask that is known, under way, failed or stopped. Return False if it must run."""
        values = self._task.masks.known(trial)
        if values is not None:
            self._study.tell(suggestion, list(values))
        elif trial.identity in self._asked:
            self._asked[trial.identity].append(suggestion)
        elif trial.identity in self._ended:
            self._study.tell(suggestion, state=self._ended[trial.identity])
        else:
            return False
        self._counts.repeated += 1
        return True

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an intermediate score if Optuna supports it. For a mask that was already told, it changes nothing."""
        if FAILURE not in result and trial_id in self._under_way and len(self._objectives) == 1:
            asked, *_ = self._asked[self._under_way[trial_id]]
            with suppress(UpdateFinishedTrialError):
                asked.report(result[self._objectives[0]], result["training_iteration"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the sampler the outcome of a mask, also for repeats of it that were proposed meanwhile."""
        identity = self._under_way.pop(trial_id, None)
        if identity is None:
            return
        asked, *same = self._asked.pop(identity)
        values, state = self._outcome(result or {}, error)
        if error and self._task.masks.rungs and _LOST not in asked.user_attrs:
            self._propose_again(self._study.get_trials(deepcopy=False)[asked.number])
            self._counts.new, self._counts.ended = self._counts.new - 1, False
        elif state is not TrialState.COMPLETE:
            self._ended[identity] = state
        for suggestion in (asked, *same):
            self._study.tell(suggestion, values, state, skip_if_finished=True)  # it may have finished before a crash
        self._note()

    def _outcome(self, result: dict[str, Any], error: bool) -> tuple[list[float] | None, TrialState]:
        if error or FAILURE in result:
            return None, TrialState.FAIL
        if not result.get(COMPLETE):
            return None, TrialState.PRUNED
        return [float(result[name]) for name in self._objectives], TrialState.COMPLETE

    def _give_up_open(self, lost: set[int]) -> None:
        """Tell the sampler that the open trials of an earlier process failed, and propose them again.

        This does not use up budget. ``lost`` trials were already proposed again.
        """
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if frozen.number not in lost:
                self._propose_again(frozen)
            self._study.tell(frozen.number, state=TrialState.FAIL)
            self._counts.ended = False
        self._note()

    def _propose_again(self, lost: FrozenTrial) -> None:
        asked = lost.system_attrs.get("fixed_params", lost.params)
        self._study.enqueue_trial(asked, user_attrs={_LOST: lost.number})

    @property
    def stopped(self) -> set[str]:
        """Identities of masks that ended before their last rung."""
        return set(self._ended)
