"""Distances from the dense model's states, and what share of them is taken back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.finding import Finding
from analysis.questions import shift
from analysis.questions.shift import recovery, shift_of
from analysis.subject import Subject, states_of
from trainables.text.corpus import Blocks


def row_of(finding: Finding, place: str):
    return next(row for row in finding.rows if row["place"] == place)


def test_a_shift_by_hand():
    dense = torch.tensor([[[3.0, 4.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]])
    moved = dense + torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[0.0, 0.0], [2.0, 0.0]]])
    assert shift_of(moved, dense).tolist() == [0.75, 1]


def test_recovery_is_a_share_of_teals_shift():
    teal = np.array([1.0, 2.0, 3.0])
    assert recovery(teal, 0 * teal) == (1, 1, 1)
    assert recovery(teal, teal) == (0, 0, 0)
    assert recovery(teal, 2 * teal).value == -1
    assert recovery(teal, np.array([0.5, 2.0, 1.5])).value == pytest.approx(2 / 6)


def test_zero_biases_take_nothing_back(finding_of):
    finding = finding_of("shift", "zero")
    names = ("recovery", "random_recovery", "weighted_recovery")
    assert all(row[name] == 0 for row in finding.rows for name in names)


def test_the_opposite_of_a_constant_error_takes_all_of_it_back(subject: Subject):
    """In a text of one word all tokens of a block have the same states, and so the first site the same error."""
    tokens, site = torch.full((4, 16), 9), subject.sites[0]
    dense = states_of(subject.model, tokens, (site,)).outputs[site]
    with subject.mode("teal"):
        teal = states_of(subject.model, tokens, (site,)).outputs[site]
    biases = {s: torch.zeros_like(b) for s, b in subject.biases.items()} | {site: (dense - teal)[0, 0]}
    same = replace(subject, blocks=Blocks(tokens, torch.zeros_like(tokens)), biases=biases)
    row = row_of(shift.find(same), "0.down_proj")
    assert float(row["teal_relative"]) > 0.1
    assert row["recovery"] == pytest.approx(1, abs=1e-4)


def test_the_shift_after_a_layer_is_that_of_its_hidden_states(subject: Subject, finding_of):
    tokens, network = subject.blocks.tokens, subject.model.network
    with torch.inference_mode():
        dense = network(tokens, output_hidden_states=True).hidden_states[2]
        with subject.mode("spon"):
            spon = network(tokens, output_hidden_states=True).hidden_states[2]
    row = row_of(finding_of("shift", "topk"), "after layer 1")
    relative = ((spon - dense).norm(dim=-1) / dense.norm(dim=-1))[:, 1:]
    assert row["spon_relative"] == pytest.approx(relative.mean().item(), rel=1e-5)


def test_a_place_recovers_what_all_of_a_kind_would_if_it_were_the_only_one(finding_of):
    finding = finding_of("shift", "topk")
    last = next(effect for effect in finding.effects if effect.label == "last layer, biases")
    row = row_of(finding, "after layer 4")
    assert (last.value, last.interval) == (row["recovery"], (row["recovery_low"], row["recovery_high"]))


def test_every_site_and_layer_is_a_place(finding_of):
    places = [row["place"] for row in finding_of("shift", "threshold").rows]
    sites = [f"{layer}.{module}" for layer in range(5) for module in ("o_proj", "down_proj")]
    assert places == sites + [f"after layer {layer}" for layer in range(5)]


def test_the_best_bias_is_nearer_than_random_ones_and_the_worst_is_further(subject: Subject):
    mean_error = {site: torch.zeros_like(bias) for site, bias in subject.biases.items()}
    site = subject.sites[-1]
    with subject.mode("teal"):
        teal = states_of(subject.model, subject.blocks.tokens, subject.sites).outputs[site]
    mean_error[site] = (states_of(subject.model, subject.blocks.tokens, (site,)).outputs[site] - teal).mean(dim=(0, 1))
    best = shift.find(replace(subject, biases=mean_error, random=subject.random)).verdict
    worst = shift.find(replace(subject, biases={s: -9 * e for s, e in mean_error.items()})).verdict
    assert "last layer: nearer to the dense model, nearer than with random vectors" in best
    assert "last layer: further from the dense model, further than with random vectors" in worst
    assert "W times random" not in best


@pytest.mark.parametrize(("kind", "name"), [("random", "random vectors"), ("weighted", "W times random vectors")])
def test_the_vectors_of_a_null_are_not_told_from_themselves(kind, name, subject: Subject):
    finding = shift.find(replace(subject, biases=getattr(subject, kind)))
    beyond = [effect for effect in finding.effects if effect.label.endswith(f"beyond {name}")]
    assert [effect.value for effect in beyond] == pytest.approx([0, 0, 0], abs=1e-6)
    assert kind == "weighted" or finding.verdict.count("not clearly different from random vectors") == 3
