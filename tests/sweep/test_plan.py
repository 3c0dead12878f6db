from pathlib import Path

import pytest

from search_spaces.load import parse_space
from sweep.plan import print_plan


def test_a_plan_lists_every_trial_with_its_sites_and_parameters(
    tiny_raw: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_raw["allocations"] = ["BASELINE-TEAL", "UNIF-ALL", "TOP-50", "TOP-75", "HYBRID-OD"]
    print_plan(parse_space(tiny_raw, "test"), measure=False)
    out = capsys.readouterr().out
    assert "tiny: 4 trials" in out
    assert "o_proj+down_proj 0-1" in out
    assert "TOP-75 is the same mask as TOP-50" in out
    assert "128" in out  # HYBRID-OD: two layers, two modules, 32 wide


def test_a_plan_measures_and_estimates(tiny_raw: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(parse_space(tiny_raw, "test"))
    out = capsys.readouterr().out
    assert "a trial of 8 steps about" in out
    assert "GiB" in out


def test_a_plan_without_biases_is_estimated_too(
    tiny_raw: dict[str, object], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    print_plan(parse_space(tiny_raw | {"allocations": ["BASELINE-TEAL"]}, "test"))
    assert "the sweep about" in capsys.readouterr().out


def test_a_plan_for_gpus_is_predicted_without_one(
    tiny_raw: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    space = parse_space(tiny_raw | {"resources": {"gpus_per_trial": 0.5}}, "test")
    print_plan(space, tflops=1e-6)
    slow = capsys.readouterr().out
    print_plan(space, tflops=1e-3)
    fast = capsys.readouterr().out
    assert "GiB of GPU memory a trial" in slow
    hours = [float(out.split("the sweep ")[1].split()[0]) for out in (slow, fast)]
    assert hours[0] == pytest.approx(1000 * hours[1], rel=0.02)


def test_the_plan_of_a_search_counts_what_it_may_train_and_score(
    tiny_raw: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    search = {
        "masks": {"family": "subset"},
        "n_masks": 10,
        "proxy": {"rungs": [4, 12], "n_train": 3, "n_reference": 5, "epochs": 3},
        "stopping": "asha",
        "confirm": {"seeds": [1, 2], "n_random": 1},
    }
    print_plan(parse_space(tiny_raw | {"search": search, "allocations": ["UNIF-ALL", "GRADIENT"]}, "test"))
    out = capsys.readouterr().out
    # UNIF-ALL; shared biases at one and a half times its epochs; 3 masks; two seeds of UNIF-ALL, the chosen one,
    # early, late, inverted and a random one
    assert f"at most {1 + 2 + 3 + 2 * 6} trials and scores {16 * 12} blocks" in out
    assert "GRADIENT is measured first" in out
    assert "the sweep about" in out
