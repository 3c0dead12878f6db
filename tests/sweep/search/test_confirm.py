"""Choices and comparisons of masks whose scores are made up."""

import pytest
import torch
from optuna.trial import FixedTrial

from search_spaces.config import SpaceConfig
from search_spaces.resolve import Fingerprints, resolve_space
from search_spaces.search import trial_of_suggestion
from search_spaces.sites import Site
from sweep.search.confirm import choose, compare, final_groups
from sweep.store.folder import SweepFolder
from tests.search_spaces.conftest import make_shape
from tests.sweep.search.fabricated import checkpoint_of, scores_of

SHAPE, PRINTS = make_shape(8), Fingerprints("m", "c")
KL, BOTH = ["val_kl_nats"], ["val_kl_nats", "n_spon_params"]
TEXT = torch.linspace(0.1, 2.0, 12).tolist()  # twelve documents, some much harder than others


def space(allocations=("UNIF-ALL", "TOP-50"), plan=None, objectives=KL, **confirm):
    final = {"seeds": [1, 2], "n_random": 2, **confirm}
    search = {"masks": {"family": "subset"}, "objectives": objectives, "confirm": final}
    given = {
        "name": "s",
        "model": {"dtype": "float32"},
        "sparsity": [0.5],
        "allocations": allocations,
        "plan": plan or {},
        "search": search,
    }
    return SpaceConfig.model_validate(given)


def trial_of(*layers, of=None):
    bits = {f"{layer:02d}.down_proj": layer in layers for layer in range(8)}
    return trial_of_suggestion(of or space(), FixedTrial(bits), SHAPE, PRINTS)


def trained(*layers, kl):
    return checkpoint_of(trial_of(*layers), {"val_kl_nats": kl, "val_teal_kl_nats": 1.0})


def layers_of(sites):
    return tuple(Site.parse(str(site)).layer for site in sites)


def chosen_layers(*checkpoints, **confirm):
    config = space(**{"objectives": BOTH} | confirm)
    return [layers_of(c.meta.config.sites) for c in choose(config, checkpoints, resolve_space(config, SHAPE, PRINTS))]


# Choose


def test_the_best_at_each_size_is_chosen_best_first():
    masks = [trained(1, kl=0.6), trained(2, kl=0.7), trained(1, 2, kl=0.5), trained(2, 3, kl=0.4)]
    assert chosen_layers(*masks, n_chosen=9) == [(2, 3), (1,)]


def test_where_size_does_not_matter_the_best_are_chosen():
    masks = [trained(1, kl=0.6), trained(1, 2, kl=0.5), trained(2, 3, 4, kl=0.4), trained(1, 2, 3, 4, kl=0.45)]
    assert chosen_layers(*masks, objectives=KL, n_chosen=2) == [(2, 3, 4), (1, 2, 3, 4)]


def test_a_mask_that_a_smaller_one_beats_is_not_chosen():
    assert chosen_layers(trained(1, kl=0.4), trained(1, 2, kl=0.5), n_chosen=9) == [(1,)]


def test_a_mask_that_an_allocation_of_the_space_beats_is_not_chosen():
    named = trained(0, 1, 2, 3, kl=0.3)
    assert chosen_layers(named, trained(1, kl=0.6), trained(1, 2, 3, 4, 5, kl=0.4), n_chosen=9) == [(1,)]


def test_an_allocation_of_the_space_is_not_chosen():
    assert chosen_layers(trained(*range(8), kl=0.1), trained(0, 1, 2, 3, kl=0.2)) == []


def test_no_more_are_chosen_than_asked_for():
    masks = [trained(1, kl=0.6), trained(1, 2, kl=0.5), trained(1, 2, 3, kl=0.4)]
    assert chosen_layers(*masks, n_chosen=2) == [(1, 2, 3), (1, 2)]


def test_a_search_that_is_beaten_throughout_still_yields_its_best():
    named = trained(0, 1, 2, 3, kl=0.1)
    assert chosen_layers(named, trained(*range(5), kl=0.3), trained(*range(6), kl=0.2), n_chosen=9) == [tuple(range(6))]


def test_teal_alone_is_not_chosen():
    assert chosen_layers(trained(kl=1.0)) == []


# The groups of a final comparison


def groups_of(*masks, **given):
    config = space(**given)
    chosen = [checkpoint_of(trial_of(*layers, of=config), {}) for layers in masks]
    return final_groups(config, chosen, resolve_space(config, SHAPE, PRINTS), SHAPE)


def roles(groups, role):
    return {name: layers_of(trials[0].sites) for name, (mine, trials) in groups.items() if mine == role}


def test_the_chosen_the_named_and_the_controls_are_compared():
    groups = groups_of((1, 2, 6))
    assert list(roles(groups, "chosen").values()) == [(1, 2, 6)]
    assert roles(groups, "named") == {"UNIF-ALL": tuple(range(8)), "TOP-50": (0, 1, 2, 3)}
    assert list(roles(groups, "control")) == ["early-3", "late-3", "random-3-0", "random-3-1", "inverted"]


def test_every_mask_is_trained_with_every_seed_under_the_plan_of_the_chosen():
    for name, (_, trials) in groups_of((1, 2, 6), seeds=[5, 6, 7]).items():
        assert [trial.training.seed for trial in trials] == [5, 6, 7]
        assert {trial.allocation for trial in trials} == {name}
        assert {trial.plan_label for trial in trials} == {"down_proj@0.50 threshold"}


def test_teal_alone_is_no_mask_of_the_comparison():
    assert "BASELINE-TEAL" not in groups_of((1, 2), allocations=["BASELINE-TEAL", "UNIF-ALL"])


def test_nothing_is_compared_where_nothing_was_chosen():
    assert final_groups(space(), [], resolve_space(space(), SHAPE, PRINTS), SHAPE) == {}


def test_an_allocation_with_a_bias_outside_the_plan_is_left_out():
    assert list(roles(groups_of((1, 2), allocations=["ATTN-ONLY", "UNIF-ALL"]), "named")) == ["UNIF-ALL"]


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
def compared(tmp_path):
    """Compares masks in one plan, given their role, layers, validation KL, and what each seed adds to that and to the
    KL of the text; None for a seed that failed. Controls are by turns better and worse on the documents.
    """

    def run(masks):
        folder, groups = SweepFolder(tmp_path / "s"), {}
        baselines = {"test.dense": scores_of([0.0] * 12), "test.teal": scores_of([kl + 1 for kl in TEXT])}
        for name, (role, layers, val, *above) in masks.items():
            seeds = range(1, 1 + len(above))
            trials = [
                trial.model_copy(update={"allocation": name, "training": trial.training.model_copy(update={"seed": s})})
                for s, trial in zip(seeds, [trial_of(*layers)] * len(above), strict=True)
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


def test_figures_of_a_mask_are_means_over_its_seeds(compared):
    (mask,) = compared(CHOSEN).masks
    assert mask.seeds == (1, 2)
    assert mask.val_kl_nats == pytest.approx(0.5 + 0.2)
    assert mask.test_kl_nats == pytest.approx(sum(TEXT) / 12 + 0.2)
    assert mask.test_nll_nats == pytest.approx(sum(TEXT) / 12 + 2.2)
    assert mask.test_kl_recovered.value == pytest.approx(0.8 / (sum(TEXT) / 12 + 1))


def test_a_plan_says_what_its_baselines_are(compared):
    plan = compared(CHOSEN)
    assert plan.teal_test_kl_nats == pytest.approx(sum(TEXT) / 12 + 1)
    assert plan.dense_test_ppl == pytest.approx(torch.tensor(2.0).exp().item())
    assert (plan.plan, plan.bootstrap_over) == ("down_proj@0.50 threshold", "documents")


def test_a_mask_names_its_checkpoints_in_the_folder(compared, tmp_path):
    (mask,) = compared(CHOSEN).masks
    assert all((tmp_path / "s" / path / "meta.json").exists() for path in mask.checkpoints)
    assert len(set(mask.checkpoints)) == 2


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


def test_a_rival_with_a_seed_that_failed_is_no_best_rival(compared):
    assert compared(CHOSEN | {"TOP-25": ("named", (0, 1), 0.6, 0.5, None)}).best_rival == {"found": None}


def test_recovery_is_not_given_where_teal_does_no_certain_damage(tmp_path):
    folder, trial = SweepFolder(tmp_path / "s"), trial_of(1, 2)
    harmless = {name: scores_of([0.0] * 12) for name in ("test.dense", "test.teal", "test.spon")}
    folder.trial(trial).start(trial)
    folder.trial(trial).store(checkpoint_of(trial, {"val_kl_nats": 0.0}, harmless))
    (mask,) = compare(space(), folder, {"found": ("chosen", [trial])}).masks
    assert (mask.test_kl_recovered, mask.test_ppl_recovered) == (None, None)
