"""Optuna behind the ledger: what Ray Tune asks for the next mask."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from search_spaces.samplers import make_sampler
from search_spaces.schema import TrialConfig
from search_spaces.search import named_suggestions, search_of, trial_of_suggestion
from sweep.search.task import Counts, Task
from trainables.ray_trainable import COMPLETE, FAILURE

_IDENTITY, _LOST = "spon.trial", "spon.lost"
"""Attributes of a trial of the study: the identity of a mask that was given out, and the trial that it stands for."""
PATIENCE = 10
"""Known masks that a sampler may propose in a row before masks are drawn at random."""
_GIVE_UP = 300
"""Known masks in a row, most of them drawn at random, after which a space counts as used up."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_journal(file: Path) -> JournalStorage:
    """Optuna's storage in a file."""
    return JournalStorage(JournalFileBackend(str(file.resolve())))


class MaskSearch(OptunaSearch):
    """``OptunaSearch`` over masks.

    Beyond it: a suggestion becomes a validated trial; a mask that was evaluated before is told to the sampler and not
    run; the space's own allocations come first; and a mask that a scheduler stopped is told as pruned, never with a
    score that others have on more text or after more training.

    Args:
        task: what is searched.
        journal: file of Optuna's storage.
    """

    def __init__(self, task: Task, journal: Path) -> None:
        search = search_of(task.space)
        objectives: Any = list(search.objectives) if len(search.objectives) > 1 else search.objectives[0]
        mode: Any = ["min"] * len(search.objectives) if len(search.objectives) > 1 else "min"
        super().__init__(
            metric=objectives,
            mode=mode,
            sampler=make_sampler(search.algorithm, search.seed),
            study_name=task.space.name,
            storage=open_journal(journal),
        )
        self._task, self._budget = task, search.n_masks
        self._counts = Counts.read(task.counts)
        self._ask_sampler, self._stray = self._sampler, RandomSampler(seed=search.seed)
        self._identities: dict[str, str] = {}
        self._same: dict[str, list[Trial]] = {}
        self._setup_study(mode)
        given = [trial for trial in self._study.get_trials(deepcopy=False) if _IDENTITY in trial.user_attrs]
        lost = self._lost
        over = [trial for trial in given if trial.state.is_finished() and trial.number not in lost]
        self._ended = {t.user_attrs[_IDENTITY]: t.state for t in over if t.state is not TrialState.COMPLETE}
        self._counts.new = len(over)  # the file may be older than the study
        for parameters in named_suggestions(task.space, task.shape):  # an earlier process may have been lost among them
            self._study.enqueue_trial(parameters, skip_if_exists=True)
        self._has_begun = False

    @property
    def _study(self) -> Study:
        study: Any = self._ot_study
        assert isinstance(study, Study)
        return study

    def set_search_properties(self, *args: Any, **spec: Any) -> bool:
        """Nothing of what Ray knows is left open."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Ray's config of the next mask that must be evaluated, or that there is none."""
        if not self._has_begun:  # an earlier process may have, whose state of Ray is lost
            self._has_begun = True
            self._give_up_open()
        if self._counts.new >= self._budget:
            return None if self._identities else self._end()  # what is under way may be lost, and proposed again
        for repeated in range(_GIVE_UP):
            strays = repeated >= PATIENCE
            self._study.sampler = self._stray if strays else self._ask_sampler
            suggestion = self._study.ask()
            trial = trial_of_suggestion(self._task.space, suggestion, self._task.shape, self._task.fingerprints)
            if not self._tell_known(suggestion, trial):
                self._counts.new += 1
                self._counts.strayed += strays
                self._counts.ended = self._counts.new >= self._budget  # Ray asks no more
                suggestion.set_user_attr(_IDENTITY, trial.identity)
                self._ot_trials[trial_id], self._identities[trial_id] = suggestion, trial.identity
                self._same[trial.identity] = []
                self._note()
                return self._task.job(trial, self._task.rungs)
        return self._end()

    def _end(self) -> str:
        self._counts.ended = True
        self._note()
        return str(Searcher.FINISHED)

    def _note(self) -> None:
        self._counts.open = len(self._identities)
        self._counts.write(self._task.counts)

    def _tell_known(self, suggestion: Trial, trial: TrialConfig) -> bool:
        """Whether the mask need not be run: it is known, is under way, has failed or was stopped."""
        values = self._task.known(trial, self._task.full)
        if values is not None:
            self._study.tell(suggestion, list(values))
        elif trial.identity in self._same:
            self._same[trial.identity].append(suggestion)
        elif trial.identity in self._ended:
            self._study.tell(suggestion, state=self._ended[trial.identity])
        else:
            return False
        self._counts.repeated += 1
        return True

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass an intermediate score on; after a crash, one of a mask that was told before it changes nothing."""
        if FAILURE not in result and trial_id in self._identities:
            with suppress(UpdateFinishedTrialError):
                super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the sampler how a mask ended, and with it the same mask where it was proposed meanwhile."""
        identity = self._identities.pop(trial_id, None)
        if identity is None:
            return
        asked, same = self._ot_trials.pop(trial_id), self._same.pop(identity)
        values, state = self._outcome(result or {}, error)
        if error and self._task.rungs and _LOST not in asked.user_attrs:
            self._propose_again(self._study.get_trials(deepcopy=False)[asked.number])
            self._counts.new, self._counts.ended = self._counts.new - 1, False
        elif state is not TrialState.COMPLETE:
            self._ended[identity] = state
        for suggestion in (asked, *same):
            self._study.tell(suggestion, values, state, skip_if_finished=True)  # it may have been, before a crash
        self._note()

    def _outcome(self, result: dict[str, Any], error: bool) -> tuple[list[float] | None, TrialState]:
        if error or FAILURE in result:
            return None, TrialState.FAIL
        if not result.get(COMPLETE):
            return None, TrialState.PRUNED
        return [float(result[name]) for name in search_of(self._task.space).objectives], TrialState.COMPLETE

    def _give_up_open(self) -> None:
        """Tell the sampler that what an earlier process was about to evaluate has failed, and have it proposed again.

        It costs the budget nothing.
        """
        same = (suggestion for waiting in self._same.values() for suggestion in waiting)
        open_numbers, lost = {suggestion.number for suggestion in (*self._ot_trials.values(), *same)}, self._lost
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if frozen.number in open_numbers:
                continue
            if frozen.number not in lost:
                self._propose_again(frozen)
            self._study.tell(frozen.number, state=TrialState.FAIL)
            self._counts.ended = False
        self._note()

    def _propose_again(self, lost: FrozenTrial) -> None:
        asked = lost.system_attrs.get("fixed_params", lost.params)
        self._study.enqueue_trial(asked, user_attrs={_LOST: lost.number})

    @property
    def _lost(self) -> set[int]:
        """Numbers of what was under way when a process was lost, and is proposed again."""
        trials = self._study.get_trials(deepcopy=False)
        return {trial.user_attrs[_LOST] for trial in trials if _LOST in trial.user_attrs}

    @property
    def stopped(self) -> set[str]:
        """Identities of masks that ended before their last rung."""
        return set(self._ended)
