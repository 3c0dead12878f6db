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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ["a trial of 8 steps about", "GiB"]),
        ({"allocations": ["BASELINE-TEAL"]}, ["the sweep about"]),
        ({"resources": {"gpus_per_trial": 0.5}}, ["GiB of GPU memory a trial", "GPU-hours at 125 TFLOP/s sustained"]),
    ],
    ids=["measured", "without biases", "predicted for a GPU"],
)
def test_a_plan_estimates(
    tiny_raw: dict[str, object], capsys: pytest.CaptureFixture[str], changes: dict[str, object], says: list[str]
) -> None:
    print_plan(parse_space(tiny_raw | changes, "test"))
    out = capsys.readouterr().out
    assert [part for part in says if part not in out] == []


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
