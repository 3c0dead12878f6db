"""Recovery by a property of tokens, and by category of prompts."""

import numpy as np
import pytest
import torch

from analysis.questions.where import BINS, split_by
from analysis.subject import Subject

RNG = np.random.default_rng(0)
TEAL = RNG.exponential(1.0, (24, 20))
POSITION = np.broadcast_to(np.arange(20.0), TEAL.shape)


def kl(recovered: np.ndarray) -> dict[str, np.ndarray]:
    return {"teal": TEAL, "spon": TEAL * (1 - recovered), "random": TEAL}


def test_a_recovery_that_grows_with_position_is_found():
    planted = np.repeat([0.1, 0.2, 0.3, 0.4, 0.5], 4) * np.ones_like(TEAL)
    bins, contrast = split_by(POSITION, kl(planted))
    assert [bin_.recovered.value for bin_ in bins] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert [bin_.random_recovered.value for bin_ in bins] == [0] * BINS
    assert [bin_.label for bin_ in bins][:2] == ["0 to 3", "4 to 7"]
    assert [bin_.share for bin_ in bins] == pytest.approx([0.2] * 5)
    assert bins[1].teal_kl_nats == pytest.approx(TEAL[:, 4:8].mean())
    assert contrast == pytest.approx((0.4, 0.4, 0.4))


def test_a_property_that_does_not_matter_is_found_at_the_nominal_rate():
    rng, found = np.random.default_rng(1), 0
    for _ in range(200):
        _, contrast = split_by(rng.normal(size=TEAL.shape), kl(rng.normal(0.3, 0.3, TEAL.shape)))
        found += not contrast.low <= 0 <= contrast.high
    assert found <= 20  # 10 are expected


def test_an_effect_among_noise_is_found():
    rng = np.random.default_rng(2)
    values = rng.normal(size=TEAL.shape)
    _, contrast = split_by(values, kl(0.3 + 0.2 * values + rng.normal(0, 0.3, TEAL.shape)))
    assert contrast.low > 0


@pytest.mark.parametrize(
    ("values", "shares", "certain"),
    [
        ((POSITION >= 15)[:4], [0.75, 0.25], True),
        (0 * POSITION[:4], [1], True),
        (np.repeat([0, 0, 0, 1], 20).reshape(4, 20), [0.75, 0.25], False),  # a bin of one block could be anything
    ],
)
def test_ties_make_fewer_bins(values, shares, certain):
    alike = {mode: part[:4] for mode, part in kl(0.3 + 0 * TEAL).items()}
    bins, contrast = split_by(values.astype(float), alike)
    assert [bin_.share for bin_ in bins] == shares
    assert [bin_.label for bin_ in bins] == ["0 to 0", "1 to 1"][: len(bins)]
    assert contrast == pytest.approx((0, 0, 0) if certain else (0, -np.inf, np.inf), abs=1e-12)


def test_the_kl_of_prompts_is_the_direct_one(subject: Subject, finding_of):
    rows = {row["bin"]: row for row in finding_of("where", "topk").rows if row["by"] == "category"}
    network = subject.model.network
    for category, row in rows.items():
        total = {"teal": 0.0, "spon": 0.0}
        prompts = [prompt for prompt in subject.prompts if prompt.category == category]
        for prompt in prompts:
            with torch.inference_mode():
                p = network(prompt.tokens[None]).logits[0].double().log_softmax(-1)
                for mode in total:
                    with subject.mode(mode):  # type: ignore[arg-type]
                        q = network(prompt.tokens[None]).logits[0].double().log_softmax(-1)
                    total[mode] += (p.exp() * (p - q)).sum().item()
        tokens = sum(len(prompt.tokens) for prompt in prompts)
        assert row["teal_kl_nats"] == pytest.approx(total["teal"] / tokens, rel=1e-3)
        assert row["recovered"] == pytest.approx(1 - total["spon"] / total["teal"], rel=1e-2)


def test_tokens_that_the_plan_leaves_dense_are_left_out(finding_of):
    finding = finding_of("where", "threshold")
    positions = [row["bin"] for row in finding.rows if row["by"] == "position in the block"]
    assert str(positions[0]).startswith("8 to ")
    assert str(positions[-1]).endswith(" to 15")


def test_all_tokens_are_in_one_bin_of_each_property(finding_of):
    rows = finding_of("where", "topk").rows
    for name in {row["by"] for row in rows}:
        assert sum(float(row["share"]) for row in rows if row["by"] == name) == pytest.approx(1)
