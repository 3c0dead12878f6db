"""Scores of tasks against scores by hand, and what cannot be asked."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.evaluation import harness
from analysis.evaluation.harness import ANSWER_NLL, load_tasks, score_tasks
from analysis.evaluation.resident import MODES, Resident
from search_spaces.errors import SponError
from tests.analysis.evaluation.conftest import ITEMS

pytest.importorskip("lm_eval")

GENERATION = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "doc_to_target": "{{said}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 3, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}


def ids(words: str) -> list[int]:
    return [int(word[1:]) for word in words.split()]


def choice_lls(resident: Resident, item: dict[str, Any]) -> torch.Tensor:
    """Log-likelihood of each choice after the text, each run alone."""
    found = []
    for choice in item["choices"]:
        tokens = torch.tensor([ids(item["text"]) + ids(choice)])
        with torch.no_grad():
            log_p = resident.model.network(tokens[:, :-1]).logits[0].log_softmax(-1)
        n = len(ids(choice))
        found.append(sum(log_p[i, t] for i, t in zip(range(-n, 0), tokens[0, -n:], strict=True)))
    return torch.stack(found)


def scores_of(resident: Resident, task: str, limit: int | None = None) -> dict[str, Any]:
    return {scores.metric: scores for scores in score_tasks(resident, load_tasks([task], limit), limit)}


@pytest.mark.parametrize("policy", ["all", "second_half"])
def test_the_three_models_score_as_by_hand(policy, resident_of, write_task):
    resident = resident_of(policy)
    found = scores_of(resident, write_task())
    assert set(found) == {"acc", "acc_norm", ANSWER_NLL}
    for mode in MODES:
        with resident.mode(mode):
            lls = [choice_lls(resident, item) for item in ITEMS]
        right = [item["answer"] for item in ITEMS]
        lengths = [torch.tensor([float(len(choice)) for choice in item["choices"]]) for item in ITEMS]
        acc = [float(ll.argmax() == answer) for ll, answer in zip(lls, right, strict=True)]
        norm = [float((ll / n).argmax() == answer) for ll, n, answer in zip(lls, lengths, right, strict=True)]
        nll = [float(-ll.log_softmax(0)[answer]) for ll, answer in zip(lls, right, strict=True)]
        assert getattr(found["acc"], mode) == tuple(acc)
        assert getattr(found["acc_norm"], mode) == tuple(norm)
        assert getattr(found[ANSWER_NLL], mode) == pytest.approx(nll, rel=1e-4)
    resident.model.check_dense()
    assert len({found[ANSWER_NLL].dense, found[ANSWER_NLL].teal, found[ANSWER_NLL].spon}) == 3


def test_a_limit_takes_the_first_items(resident_of, write_task):
    resident, task = resident_of(), write_task()
    whole, some = scores_of(resident, task), scores_of(resident, task, 2)
    assert some[ANSWER_NLL].teal == pytest.approx(whole[ANSWER_NLL].teal[:2], rel=1e-4)
    assert (some["acc"].limit, whole["acc"].limit) == (2, None)


def test_generation_with_a_cache_is_greedy_recomputation(resident_of, write_task):
    resident = resident_of()
    texts, said = ["w5 w6 w7", "w30 w31"], []
    for text in texts:
        tokens = torch.tensor([ids(text)])
        with torch.no_grad(), resident.mode("spon"):
            for _ in range(3):
                tokens = torch.cat((tokens, resident.model.network(tokens).logits[:, -1:].argmax(-1)), dim=1)
        said.append(" ".join(f"w{i}" for i in tokens[0, -3:].tolist()))
    task = write_task([{"text": t, "said": s} for t, s in zip(texts, said, strict=True)], **GENERATION)
    found = scores_of(resident, task)["exact_match"]
    assert found.spon == (1.0, 1.0)
    assert found.dense != found.spon


def test_a_task_without_a_mean_over_items_is_refused(resident_of, write_task):
    task = write_task(
        output_type="loglikelihood_rolling",
        doc_to_choice=None,
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": "word_perplexity"}],
    )
    with pytest.raises(SponError, match="mean over items, but words has word_perplexity"):
        scores_of(resident_of(), task)


def test_nothing_of_the_harness_is_printed(resident_of, write_task, capfd):
    scores_of(resident_of(), write_task())
    out, err = capfd.readouterr()
    assert err == ""
    assert [line.split(":")[0] for line in out.splitlines()] == list(MODES)


def test_a_tasks_data_is_found_beside_it_from_anywhere(write_task, monkeypatch, tmp_path):
    task = os.path.relpath(write_task(), tmp_path.parent)
    monkeypatch.chdir(tmp_path.parent)
    assert set(load_tasks([task], None)) == {"words"}
    assert Path.cwd() == tmp_path.parent


@pytest.mark.parametrize("name", ["own", "chains"])
def test_our_own_tasks_load(name):
    file = Path(harness.__file__).with_name(f"{name}.yaml")
    (task,) = load_tasks([str(file)], None).values()
    items = list(task.eval_docs)
    assert len(items) == 40
    assert all(len(set(item["choices"])) == 4 for item in items)
    assert [sum(item["answer"] == place for item in items) for place in range(4)] == [10] * 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": None}, "Unknown config shape"),
        ({"output_type": "nosuch"}, "invalid output_type"),
        ({"dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}}, "gone.jsonl"),
        ({"doc_to_text": "{{text"}, "TemplateSyntaxError"),
        ({"unsafe_code": True}, "runs code"),
    ],
)
def test_a_broken_task_is_one_line(changes, reason, write_task):
    with pytest.raises(SponError, match=reason) as fault:
        load_tasks([write_task(**changes)], None)
    assert "\n" not in str(fault.value)


def test_a_file_that_is_no_yaml_or_not_there_or_named_twice_is_one_line(write_task, tmp_path):
    (tmp_path / "bad.yaml").write_text("task: [")
    task = write_task()
    for names, reason in ((["bad.yaml"], "ParserError"), (["gone.yaml"], "must exist"), ([task, task], "named once")):
        with pytest.raises(SponError, match=reason):
            load_tasks([str(tmp_path / name) for name in names], None)


@pytest.fixture(scope="module")
def harness_tasks() -> Any:
    """Some of the harness's own tasks: reading the names of all takes ten seconds."""
    import lm_eval.tasks

    some = Path(lm_eval.tasks.__file__).with_name("arc")
    return lm_eval.tasks.TaskManager(include_defaults=False, include_path=some)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("arc_eazy", "got 'arc_eazy'; close matches are arc_easy"),
        ("arc_easy", r"arc_easy does not: ConnectionError: .*on the Hub"),
    ],
)
def test_a_name_that_is_unknown_or_out_of_reach_is_one_line(name, message, harness_tasks, monkeypatch):
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **_: harness_tasks)
    with pytest.raises(SponError, match=message):
        load_tasks([name], None)


def test_without_the_harness_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(SponError, match=r"pip install .*requirements-evaluate\.txt"):
        load_tasks(["arc_easy"], None)
