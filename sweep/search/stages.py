"""Runs a search: train shared biases, check whether the text can tell masks apart, propose, train, confirm.

Each stage resumes where it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from search_spaces.comparison import RANDOM, reference_masks, shared_trial
from search_spaces.config import ProxyConfig, SearchConfig, SpaceConfig
from search_spaces.resolve import Fingerprints, resolve_grid
from search_spaces.search import search_of
from search_spaces.sites import ModelShape
from search_spaces.trial import TrialConfig
from sweep.search.confirm import choose, compare, final_groups
from sweep.search.database import copy_studies
from sweep.search.findings import make_findings, write_findings, write_stop
from sweep.search.mask_log import MaskLog
from sweep.search.pictures import mask_table, trained_table, write_pictures
from sweep.search.power import Power, power_lines, power_of
from sweep.search.proposals import propose, score_masks
from sweep.search.task import ScoredMasks, Task, TrainedMasks
from sweep.store import ledger
from sweep.store.counts import Counts
from sweep.store.folder import SweepFolder
from sweep.terminal.display import say
from sweep.tune.report import report_on_test
from sweep.tune.tuner import run_trials
from trainables.activity import tell
from trainables.checkpoint import Checkpoint, read_checkpoint
from trainables.selection import Selection, write_selection


@dataclass
class Search:
    """One search, stored in the sweep's folder.

    Args:
        space: with a ``search``, and with nothing left to measure.
        optuna_storage: URL of a database that gets a copy of the study.
    """

    folder: SweepFolder
    space: SpaceConfig
    shape: ModelShape
    fingerprints: Fingerprints
    tracking_uri: str
    optuna_storage: str | None = None

    @property
    def search(self) -> SearchConfig:
        """The space's search."""
        return search_of(self.space)

    @cached_property
    def log(self) -> MaskLog:
        """Log of the masks that were scored on the proxy."""
        return MaskLog(self.folder.path / "masks.jsonl")

    @cached_property
    def reference(self) -> MaskLog:
        """Log of the masks scored before the search, to check whether the text can tell them apart."""
        return MaskLog(self.folder.path / "reference.jsonl")

    @property
    def _counts(self) -> Path:
        """File with the counts of the proposals."""
        return self.folder.path / "proposals.json"

    @cached_property
    def named(self) -> list[TrialConfig]:
        """Trials of the space's own allocations with the first seed."""
        one_seed = self.space.model_copy(update={"seeds": self.space.seeds[:1]})
        return resolve_grid(one_seed, self.shape, self.fingerprints)[0]

    @cached_property
    def shared(self) -> TrialConfig:
        """The trial of the proxy's shared biases."""
        return shared_trial(self.space, self.shape, self.fingerprints)

    def run(self) -> None:
        """Run the remaining stages, and write ``findings.txt`` and ``selection.json``.

        There is no ``selection.json`` if the text cannot tell masks apart, and neither file if the shared biases fail.

        Raises:
            Interrupted: if a stage was stopped.
        """
        power = None
        if proxy := self.search.proxy:
            if not self._share():
                return
            power = self._look(proxy)
            if power and not power.tells(proxy.least_reliability):
                write_stop(power, proxy.least_reliability, self.folder.path)
                return
        self._propose()
        trials = [*self.named, *self.candidates()]
        for trial in trials:
            self.folder.trial(trial).include()  # the shared biases may be one of them
        self._train("train", trials)
        groups = final_groups(self.space, choose(self.space, self.trained(), self.named), self.named, self.shape)
        final = [trial for _, trials in groups.values() for trial in trials]
        speed = self._train("confirm", final, with_test=True)
        report_on_test(self.folder, self.shape, [self.folder.trial(trial) for trial in final], speed)
        tell("comparing the chosen masks")
        self._report(compare(self.space, self.folder, groups), power)

    def _report(self, selection: Selection | None, power: Power | None) -> None:
        """Write the selection, the findings and the pictures, all from files on disk."""
        tell("writing the findings")
        if selection is not None:
            write_selection(selection, self.folder.path)
        proxy, trained = self.search.proxy, self.trained()
        full = proxy.rungs[-1] if proxy else 0
        findings = make_findings(Counts.read(self._counts), self.log, full, trained, power)
        write_findings(findings, selection, self.folder.path)
        named = {allocation.label for allocation in self.space.allocations}
        table, reference = trained_table(trained, named, self.log, full), mask_table(self.reference, full)
        write_pictures(
            self.folder.path,
            masks=mask_table(self.log, full) if proxy else table,
            reference=reference[reference["name"].str.startswith(RANDOM)],
            trained=table,
            num_layers=self.shape.num_layers,
        )

    def _train(self, stage: str, trials: Sequence[TrialConfig], with_test: bool = False) -> float | None:
        """Train trials with ``run_trials``, and adopt those that the ledger knows."""
        distinct = list({trial.identity: trial for trial in trials}.values())
        missing = ledger.missing(self.folder, distinct)
        if distinct:
            self.folder.begin(stage, [trial.name for trial in distinct])
            taken = len(distinct) - len(missing)
            say(f"{stage}: {len(distinct)} trials, {taken} known from earlier sweeps")
        return run_trials(self.folder, self.shape, missing, self.tracking_uri, stage, with_test)

    def _share(self) -> bool:
        """Train the shared biases. They are not a result of the search unless the space has that allocation."""
        folder = self.folder.trial(self.shared)
        if self.shared.identity not in {trial.identity for trial in self.named}:
            folder.set_aside(self.shared)
        self._train("shared", [self.shared])
        if folder.state == "failed":
            say("no mask can be scored: the trial of the shared biases failed")
        return folder.state == "finished"

    def _look(self, proxy: ProxyConfig) -> Power | None:
        """Score masks that span the search, and measure how well the text tells them apart."""
        trials = reference_masks(self.space, self.shape, self.fingerprints)
        self.folder.begin("reference", [trial.name for trial in trials])
        say(f"reference: {len(trials)} masks that span the search")
        score_masks(self.folder, "reference", self._scored_masks(self.reference, proxy.rungs[-1:]), trials)
        power = power_of(self.reference.on(proxy.rungs[-1]), self.space.corpus.block_size)
        for line in power_lines(power) if power else []:
            say(line)
        return power

    def _propose(self) -> None:
        """Let the algorithm propose masks until its budget is spent."""
        search = self.search
        say(f"propose: {search.n_masks} masks by {search.algorithm.name}")
        self.folder.begin("propose")
        if Counts.read(self._counts).done:
            return
        proxy = search.proxy
        scored = self._scored_masks(self.log, proxy.rungs) if proxy else None
        masks = scored or TrainedMasks(self.folder, search.objectives)
        task = Task(self.space, self.shape, self.fingerprints, masks, self._counts)
        propose(self.folder, task, self.tracking_uri)
        if self.optuna_storage:
            copy_studies(self.folder, self.optuna_storage)

    def _scored_masks(self, log: MaskLog, rungs: tuple[int, ...]) -> ScoredMasks:
        return ScoredMasks(log, self.folder.trial(self.shared).checkpoint_path, self.search.objectives, rungs)

    def candidates(self) -> list[TrialConfig]:
        """The masks to train for real after a proxy, best first. If parameters are an objective, the Pareto front comes
        before the others.
        """
        proxy = self.search.proxy
        if proxy is None:
            return []
        known = {trial.identity for trial in self.named}
        scored = sorted(self.log.on(proxy.rungs[-1]), key=lambda record: record.kl_nats)
        ranked = [record.trial for record in scored if record.trial.sites and record.trial.identity not in known]
        front: list[TrialConfig] = []
        if self.search.counts_params:
            for trial in ranked:  # best first: a mask is on the front if it is smaller than all better ones
                if not front or trial.n_spon_params < front[-1].n_spon_params:
                    front.append(trial)
        rest = [trial for trial in ranked if trial not in front]
        return [*front, *rest][: proxy.n_train]

    def trained(self) -> list[Checkpoint]:
        """Results with the first seed, without auxiliary trials. The final comparison has other seeds."""
        seed = self.space.seeds[0]
        return [read_checkpoint(t.checkpoint_path) for t in self.folder.results if t.config.training.seed == seed]
