"""Tasks of the lm-evaluation-harness on the three models. Only this module imports that optional dependency."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import chdir, nullcontext
from difflib import get_close_matches
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from datasets.exceptions import DatasetsError
from jinja2 import TemplateError
from torch import Tensor
from yaml import YAMLError

from analysis.evaluation.resident import MODES, Mode, Resident, quiet
from analysis.evaluation.stored import TaskScores
from search_spaces.errors import SponError

ANSWER_NLL = "answer_nll"
"""Nats of the right answer among the choices of a multiple-choice item. It moves even where accuracy does not."""

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of intended use, such as passing a loaded model

_SEED = 1234  # of few-shot examples and sampling, so that the three models see the same
_BATCH = 8
_FAULTS = (
    *(AssertionError, AttributeError, ImportError, LookupError, OSError, TypeError, ValueError),
    *(DatasetsError, TemplateError, YAMLError),
)
"""What the harness raises for a broken task file or an unreachable data set."""

Task = Any
"""A task of the harness, which has no types to import."""


def load_tasks(names: Sequence[str], limit: int | None) -> dict[str, Task]:
    """Load tasks by the harness's names (of tasks, groups or tags) or from YAML files, with ``limit`` items at most.

    Paths of a task's data files are relative to its YAML file. A YAML file may name Python functions, which then run.

    Returns:
        Tasks by name; a group is replaced by its tasks.

    Raises:
        SponError: if the harness is not installed, a name is unknown, or a task is broken, unreachable, or more than
            a plain-text language model can answer.
    """
    if find_spec("lm_eval") is None:
        raise SponError(
            "tasks must have the lm-evaluation-harness installed, but it is missing: "
            "pip install -r requirements.txt -r requirements-evaluate.txt (at --tasks)"
        )
    with quiet():
        from lm_eval.tasks import TaskManager

        # Indexing the thousands of task files of the harness takes ten seconds
        manager = TaskManager(include_defaults=not all(map(_is_file, names)))
        tasks: dict[str, Task] = {}
        for name in names:
            for task in _load(manager, name, limit):
                if task.task_name in tasks:
                    raise SponError(f"a task must be named once, but got {task.task_name!r} twice (at --tasks)")
                tasks[task.task_name] = task
    return tasks


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _load(manager: Any, name: str, limit: int | None) -> list[Task]:
    file = Path(name).expanduser().absolute()
    if _is_file(name) and not file.is_file():
        raise SponError(f"a task file must exist, but got {name!r} (at --tasks)")
    if not _is_file(name) and name not in manager.task_index:
        near = get_close_matches(name, manager.all_tasks, n=3)
        hint = f"; close matches are {', '.join(near)}" if near else ""
        raise SponError(f"a task must be one of the harness's or a YAML file, but got {name!r}{hint} (at --tasks)")
    with chdir(file.parent) if _is_file(name) else nullcontext():
        try:
            tasks = list(manager.load([str(file) if _is_file(name) else name])["tasks"].values())
            for task in tasks:
                _prepare(task, limit)
        except _FAULTS as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise SponError(f"a task must load, but {name} does not: {reason} (at --tasks)") from error
    if not tasks:
        raise SponError(f"a group must have tasks, but {name!r} has none (at --tasks)")
    return tasks


def _prepare(task: Task, limit: int | None) -> None:
    """Fill in a task's open settings, and build its requests once to find a broken template before the run."""
    if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
        raise TypeError("it runs code written by the model, or needs images or audio, which is not supported")
    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=_SEED)
    task.build_all_requests(limit=limit, rank=0, world_size=1)


def score_tasks(resident: Resident, tasks: Mapping[str, Task], limit: int | None) -> list[TaskScores]:
    """Score the three models on tasks, on at most ``limit`` items each.

    Returns:
        Scores of every metric that is a mean over items, and ``ANSWER_NLL`` of multiple-choice tasks.

    Raises:
        SponError: if a task has no metric that is a mean over items.
    """
    model = _harness_model(resident)
    scores: dict[Mode, dict[tuple[str, str], list[float]]] = {}
    for mode in MODES:
        begun = time.monotonic()
        scores[mode] = _score(resident, mode, model, tasks, limit)
        print(f"{mode}: {len(tasks)} tasks in {time.monotonic() - begun:.0f} s", flush=True)
    return [
        TaskScores(
            task=task,
            metric=metric,
            limit=limit,
            fewshot=tasks[task].config.num_fewshot,
            **{mode: tuple(scores[mode][task, metric]) for mode in MODES},
        )
        for task, metric in scores["dense"]
    ]


def _harness_model(resident: Resident) -> Any:
    """Wrap the resident model for the harness, with logits in fp32 like all scores here.

    The harness pads a batch to its longest item. A token policy that counts positions would count the padding, so it
    gets one item at a time.
    """
    with quiet():
        from lm_eval.models.huggingface import HFLM

        head = resident.model.head.float()

        class Fp32Logits(HFLM):  # type: ignore[misc]  # HFLM has no types
            @torch.inference_mode()
            def _model_call(self, inps: Tensor, *unused: object) -> Tensor:
                return resident.model.hidden(inps).float() @ head.T

        if resident.tokenizer.bos_token_id is None and resident.tokenizer.eos_token_id is None:
            raise SponError("a tokenizer must have a BOS or an EOS token, but this one has neither")
        batch = _BATCH if resident.config.plan.tokens == "all" else 1
        return Fp32Logits(pretrained=resident.model.network, tokenizer=resident.tokenizer, batch_size=batch)


def _score(
    resident: Resident, mode: Mode, model: Any, tasks: Mapping[str, Task], limit: int | None
) -> dict[tuple[str, str], list[float]]:
    """Return the score of each item in one mode, by task and metric."""
    from lm_eval.evaluator import evaluate

    for task in tasks.values():
        task.set_fewshot_seed(seed=_SEED)
    torch.manual_seed(_SEED)
    with quiet(), resident.mode(mode):
        samples = evaluate(lm=model, task_dict={"tasks": dict(tasks)}, limit=limit, bootstrap_iters=0)["samples"]
    return {
        (name, metric): scores for name in tasks for metric, scores in _items(tasks[name], samples[name], name).items()
    }


def _items(task: Task, samples: Iterable[Mapping[str, Any]], name: str) -> dict[str, list[float]]:
    """Return the scores of a task's items by metric."""
    means = {metric for metric, how in task.aggregation().items() if getattr(how, "__name__", "") == "mean"}
    found: dict[str, list[float]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        which = "" if sample["filter"] == "none" else f",{sample['filter']}"
        for metric in means.intersection(sample["metrics"]):
            if isinstance(sample[metric], Real):  # some are pairs, which the harness aggregates at the end
                found[f"{metric}{which}"].append(float(sample[metric]))
        nll = _answer_nll(task, sample)
        if nll is not None:
            found[f"{ANSWER_NLL}{which}"].append(nll)
    if not found:
        known = ", ".join(task.aggregation())
        raise SponError(f"a task must have a metric that is a mean over items, but {name} has {known} (at --tasks)")
    return dict(sorted(found.items()))


def _answer_nll(task: Task, sample: Mapping[str, Any]) -> float | None:
    """Return ``ANSWER_NLL`` of an item with one right answer, else None."""
    if task.OUTPUT_TYPE != "multiple_choice" or getattr(task, "multiple_input", 0):
        return None
    choices, right = task.doc_to_choice(sample["doc"]), sample["target"]
    place = choices.index(right) if isinstance(right, str) and right in choices else right
    if not isinstance(place, int):
        return None
    lls = torch.tensor([ll for ll, _ in sample["filtered_resps"]][: len(choices)], dtype=torch.float64)
    return (lls.logsumexp(0) - lls[place]).item()
