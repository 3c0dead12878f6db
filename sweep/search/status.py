"""The current and remaining stages of a search, read from its folder alone."""

from search_spaces.allocations import BASELINE
from search_spaces.config import SpaceConfig
from search_spaces.search import search_of
from sweep.search.findings import FINDINGS
from sweep.search.mask_log import MaskLog
from sweep.store.counts import Counts
from sweep.store.folder import SweepFolder, TrialFolder
from trainables.selection import SELECTION


def search_lines(folder: SweepFolder) -> list[str]:
    """One line for the user on the current stage of a search and one on the remaining stages. None for a grid."""
    if folder.space.search is None:
        return []
    if (folder.path / SELECTION).exists():
        return [f"search: done; {SELECTION} has the chosen masks"]
    stages, begun = _stages(folder.space), folder.stages
    if (folder.path / FINDINGS).exists():
        why = "no mask was compared" if "propose" in begun else "its text cannot tell masks apart"
        return [f"search: done; {why}, {FINDINGS} has the figures"]
    names = list(stages)
    if not begun:
        return ["search: no stage has begun", _then(stages, names)]
    now = list(begun)[-1]
    place = names.index(now)
    lines = [f"search: {now}, stage {place + 1} of {len(names)}: {_progress(folder, now, begun[now])}"]
    return [*lines, _then(stages, names[place + 1 :])] if names[place + 1 :] else lines


def _stages(space: SpaceConfig) -> dict[str, str]:
    """The stages of a search in order, each with the most work that the space allows for it."""
    search, allocations = search_of(space), len(space.allocations)
    named = allocations * len(space.sparsity)
    own = allocations - any(allocation.name == BASELINE for allocation in space.allocations)
    confirm = {"confirm": f"at most {search.most_compared(own) * len(search.confirm.seeds)} trials"}
    propose = {"propose": f"{search.n_masks} masks"}
    if search.proxy is None:
        return propose | {"train": f"at most {named} trials"} | confirm
    shared = {"shared": "1 trial"}
    reference = {"reference": f"at most {own + search.proxy.n_reference + 3} masks"}  # 3: early, late, inverted
    train = {"train": f"at most {named + search.proxy.n_train} trials"}
    return shared | reference | propose | train | confirm


def _then(stages: dict[str, str], names: list[str]) -> str:
    return "then: " + "; ".join(f"{name}, {stages[name]}" for name in names)


def _progress(folder: SweepFolder, stage: str, trials: list[str]) -> str:
    search = search_of(folder.space)
    if stage == "propose":
        counts = Counts.read(folder.path / "proposals.json")
        known = f"; {counts.repeated} proposals known and not run" if counts.repeated else ""
        return f"{counts.over} of {search.n_masks} masks done, {counts.open} under way{known}"
    if stage == "reference" and search.proxy:
        scored = len(MaskLog(folder.path / "reference.jsonl").on(search.proxy.rungs[-1]))
        return f"{scored} of {len(trials)} masks done"
    over = sum(TrialFolder(folder.path / "trials" / name).state != "running" for name in trials)
    return f"{over} of {len(trials)} trials done"
