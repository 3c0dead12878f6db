"""Choices and comparisons of masks whose scores are made up."""

import pytest
import torch

from search_spaces.resolve import resolve_space
from search_spaces.sites import Site
from sweep.search.confirm import choose, compare, final_groups
from sweep.store.folder import SweepFolder
from tests.sweep.search.fabricated import PRINTS, SHAPE, checkpoint_of, mask_of, scores_of, space_of

KL, BOTH = ["val_kl_nats"], ["val_kl_nats", "n_spon_params"]
TEXT = torch.linspace(0.1, 2.0, 12).tolist()  # twelve documents, some much harder than others


def space(allocations=("UNIF-ALL", "TOP-50"), objectives=KL, **confirm):
    final = {"seeds": [1, 2], "n_random": 2, **confirm}
    return space_of(*allocations, search={"objectives": objectives, "confirm": final})


def trained(*layers, kl):
    return checkpoint_of(mask_of(*layers), {"val_kl_nats": kl, "val_teal_kl_nats": 1.0})


def layers_of(sites):
    return tuple(Site.parse(str(site)).layer for site in sites)


@pytest.mark.parametrize(
    ("masks", "confirm", "chosen"),
    [
        ({(1,): 0.6, (2,): 0.7, (1, 2): 0.5, (2, 3): 0.4}, {}, [(2, 3), (1,)]),
        ({(1,): 0.4, (1, 2): 0.5}, {}, [(1,)]),
        ({(0, 1, 2, 3): 0.3, (1,): 0.6, (1, 2, 3, 4, 5): 0.4}, {}, [(1,)]),
        ({(1,): 0.6, (1, 2): 0.5, (1, 2, 3): 0.4}, {"n_chosen": 2}, [(1, 2, 3), (1, 2)]),
        ({(1,): 0.6, (1, 2): 0.5, (2, 3, 4): 0.4}, {"objectives": KL, "n_chosen": 2}, [(2, 3, 4), (1, 2)]),
        ({tuple(range(8)): 0.1, (0, 1, 2, 3): 0.2}, {}, []),
        ({(0, 1, 2, 3): 0.1, tuple(range(5)): 0.3, tuple(range(6)): 0.2}, {}, [tuple(range(6))]),
        ({(): 1.0}, {}, []),
    ],
    ids=[
        "the best of each size, best first",
        "not what a smaller one beats",
        "not what an allocation of the space beats",
        "no more than asked for",
        "whatever the size where it does not matter",
        "no allocation of the space",
        "the best where all are beaten",
        "not TEAL alone",
    ],
)
def test_masks_are_chosen_by_kl_and_by_size_where_that_counts(masks, confirm, chosen):
    config = space(**{"objectives": BOTH, "n_chosen": 9} | confirm)
    found = choose(
        config, [trained(*layers, kl=kl) for layers, kl in masks.items()], resolve_space(config, SHAPE, PRINTS)
    )
    assert [layers_of(checkpoint.meta.config.sites) for checkpoint in found] == chosen


# The groups of a final comparison


def groups_of(*masks, **given):
    config = space(**given)
    chosen = [checkpoint_of(mask_of(*layers, space=config), {}) for layers in masks]
    return final_groups(config, chosen, resolve_space(config, SHAPE, PRINTS), SHAPE)


def roles(groups, role):
    return {name: layers_of(trials[0].sites) for name, (mine, trials) in groups.items() if mine == role}


def test_the_chosen_the_named_and_the_controls_are_compared_with_every_seed_under_one_plan():
    groups = groups_of((1, 2, 6), seeds=[5, 6, 7])
    assert list(roles(groups, "chosen").values()) == [(1, 2, 6)]
    assert roles(groups, "named") == {"UNIF-ALL": tuple(range(8)), "TOP-50": (0, 1, 2, 3)}
    assert list(roles(groups, "control")) == ["early-3", "late-3", "random-3-0", "random-3-1", "inverted"]
    for name, (_, trials) in groups.items():
        assert [trial.training.seed for trial in trials] == [5, 6, 7]
        assert {(trial.allocation, trial.plan_label) for trial in trials} == {(name, "down_proj@0.50 threshold")}


def test_nothing_is_compared_where_nothing_was_chosen():
    assert groups_of() == {}


def test_teal_alone_and_an_allocation_with_a_bias_outside_the_plan_are_left_out():
    groups = groups_of((1, 2), allocations=["BASELINE-TEAL", "ATTN-ONLY", "UNIF-ALL"])
    assert list(roles(groups, "named")) == ["UNIF-ALL"]


def test_a_control_that_the_space_has_by_name_comes_once():
    groups = groups_of((1, 2, 4, 6), n_random=0)
    assert list(roles(groups, "named")) == ["UNIF-ALL", "TOP-50"]
    assert list(roles(groups, "control")) == ["late-4", "inverted"]


def test_a_chosen_mask_is_no_control_of_another():
    groups = groups_of((1, 2), (6, 7), n_random=0)
    assert list(roles(groups, "chosen").values()) == [(1, 2), (6, 7)]
    assert (6, 7) not in roles(groups, "control").values()


def test_every_mask_comes_once_under_a_name_of_its_own():
    groups = groups_of((1, 2), (2, 6), (1, 4, 6), (3, 5, 6), n_random=5)
    masks = [trials[0].sites for _, trials in groups.values()]
    assert len(set(masks)) == len(masks)
    names = [trial.name for _, trials in groups.values() for trial in trials]
    assert len(set(names)) == len(names)
    assert {"inverted", "inverted.2", "inverted.3", "inverted.4"} <= set(groups)


# The comparison


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """Compares masks in one plan, given their role, layers, validation KL, and what each seed adds to that and to the
    KL of the text; None for a seed that failed. Controls are by turns better and worse on the documents.
    """

    monkeypatch.setattr("sweep.search.confirm._RESAMPLES", 2000)

    def run(masks):
        folder, groups = SweepFolder(tmp_path / "s"), {}
        baselines = {"test.dense": scores_of([0.0] * 12), "test.teal": scores_of([kl + 1 for kl in TEXT])}
        for name, (role, layers, val, *above) in masks.items():
            seeds = range(1, 1 + len(above))
            trials = [
                trial.model_copy(update={"allocation": name, "training": trial.training.model_copy(update={"seed": s})})
                for s, trial in zip(seeds, [mask_of(*layers)] * len(above), strict=True)
            ]
            groups[name] = role, trials
            for trial, extra in zip(trials, above, strict=True):
                found = folder.trial(trial)
                found.start(trial)
                if extra is None:
                    found.fail("the loss must stay finite")
                    continue
                wobble = 0.1 * (role == "control")
                kls = [kl + extra + wobble * (-1) ** place for place, kl in enumerate(TEXT)]
                scores = {**baselines, "test.spon": scores_of(kls)}
                found.store(checkpoint_of(trial, {"val_kl_nats": val + extra}, scores))
        return compare(space(), folder, groups)

    return run


CHOSEN = {"found": ("chosen", (1, 2), 0.5, 0.1, 0.3)}
RIVAL = {"TOP-25": ("named", (0, 1), 0.6, 0.5, 0.6)}


def test_figures_of_a_mask_are_means_over_its_seeds(compared, tmp_path):
    plan = compared(CHOSEN)
    (mask,) = plan.masks
    assert mask.seeds == (1, 2)
    assert mask.val_kl_nats == pytest.approx(0.5 + 0.2)
    assert mask.test_kl_nats == pytest.approx(sum(TEXT) / 12 + 0.2)
    assert mask.test_nll_nats == pytest.approx(sum(TEXT) / 12 + 2.2)
    assert mask.test_kl_recovered.value == pytest.approx(0.8 / (sum(TEXT) / 12 + 1))
    assert len({path for path in mask.checkpoints if (tmp_path / "s" / path / "meta.json").exists()}) == 2
    assert plan.teal_test_kl_nats == pytest.approx(sum(TEXT) / 12 + 1)
    assert plan.dense_test_ppl == pytest.approx(torch.tensor(2.0).exp().item())
    assert (plan.plan, plan.bootstrap_over) == ("down_proj@0.50 threshold", "documents")


def test_a_difference_is_the_chosen_minus_the_other(compared):
    (difference,) = compared(CHOSEN | RIVAL).differences
    assert (difference.chosen, difference.against) == ("found", "TOP-25")
    assert difference.kl_nats.value == pytest.approx(0.2 - 0.55)
    assert difference.kl_nats_by_seed == pytest.approx((-0.4, -0.3))


def test_a_difference_is_paired_over_the_text(compared):
    rival = {"TOP-25": ("named", (0, 1), 0.6, 0.5, 0.7)}
    (difference,) = compared(CHOSEN | rival).differences  # the same on every document, however hard, and with each seed
    assert difference.kl_nats.low == pytest.approx(difference.kl_nats.high)
    assert difference.nll_nats == pytest.approx(difference.kl_nats)


def test_an_interval_is_wider_where_seeds_disagree(compared):
    alike, apart = (
        compared(CHOSEN | {"TOP-25": ("named", (0, 1), 0.6, 0.5, 0.5 + step)}).differences[0].kl_nats
        for step in (0.2, 0.3)
    )
    assert apart.high - apart.low > 0.1 + alike.high - alike.low


def test_every_chosen_mask_is_compared_with_all_others_and_they_with_none(compared):
    masks = CHOSEN | RIVAL | {"also": ("chosen", (3, 4), 0.5, 0.2, 0.2), "late-2": ("control", (6, 7), 0.5, 0.9, 0.9)}
    pairs = {(difference.chosen, difference.against) for difference in compared(masks).differences}
    others = {"found": {"TOP-25", "also", "late-2"}, "also": {"TOP-25", "found", "late-2"}}
    assert pairs == {(chosen, against) for chosen, theirs in others.items() for against in theirs}


@pytest.mark.parametrize(
    ("rivals", "best"),
    [
        ({"worse": ("named", (0, 1), 0.7, 0.0), "better": ("named", (2, 3), 0.6, 0.0)}, "better"),
        ({"worse": ("named", (0, 1), 0.7, -0.1), "better": ("named", (2, 3), 0.5, 0.2)}, "worse"),
        ({"smaller": ("named", (0,), 0.6, 0.0), "equal": ("named", (2, 3), 0.7, 0.0)}, "smaller"),
        ({"larger": ("named", (0, 1, 2), 0.1, 0.0), "equal": ("named", (2, 3), 0.7, 0.0)}, "equal"),
        ({"larger": ("named", (0, 1, 2), 0.1, 0.0), "control": ("control", (2, 3), 0.1, 0.0)}, None),
    ],
    ids=["lower validation KL", "whatever the allocation's seeds", "fewer parameters", "not more", "no control"],
)
def test_the_best_rival_is_the_named_one_of_as_few_parameters_with_the_lowest_validation_kl(compared, rivals, best):
    assert compared({"found": ("chosen", (1, 2), 0.5, 0.1)} | rivals).best_rival == {"found": best}


def test_intervals_are_wider_where_more_pairs_are_compared(compared):
    controls = {f"control-{place}": ("control", (place, 7), 0.9, 0.9, 1.1) for place in range(5)}
    few, more = compared(CHOSEN | {"control-0": controls["control-0"]}), compared(CHOSEN | controls)
    assert few.confidence == pytest.approx(1 - 0.05 / 2)  # KL and NLL of one pair
    assert more.confidence == pytest.approx(1 - 0.05 / 10)
    narrow, wide = few.differences[0].kl_nats, more.differences[0].kl_nats
    assert wide.low < narrow.low < narrow.value == wide.value < narrow.high < wide.high


def test_a_mask_with_a_seed_that_failed_is_left_out(compared):
    plan = compared(CHOSEN | RIVAL | {"late-2": ("control", (6, 7), 0.5, 0.9, None)})
    assert [mask.name for mask in plan.masks] == ["found", "TOP-25"]
    assert [difference.against for difference in plan.differences] == ["TOP-25"]
    assert compared(CHOSEN | {"TOP-50": ("named", (0, 1, 2, 3), 0.6, 0.5, None)}).best_rival == {"found": None}


def test_recovery_is_not_given_where_teal_does_no_certain_damage(tmp_path):
    folder, trial = SweepFolder(tmp_path / "s"), mask_of(1, 2)
    harmless = {name: scores_of([0.0] * 12) for name in ("test.dense", "test.teal", "test.spon")}
    folder.trial(trial).start(trial)
    folder.trial(trial).store(checkpoint_of(trial, {"val_kl_nats": 0.0}, harmless))
    (mask,) = compare(space(), folder, {"found": ("chosen", [trial])}).masks
    assert (mask.test_kl_recovered, mask.test_ppl_recovered) == (None, None)
