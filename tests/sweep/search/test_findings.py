"""What a search found, from scores that are made up."""

import json

import pytest

from sweep.search.findings import FINDINGS, Findings, ProxyFindings, make_findings, write_findings, write_stop
from sweep.search.mask_log import MaskLog, MaskRecord
from sweep.search.power import Power
from sweep.store.counts import Counts
from tests.sweep.search.fabricated import checkpoint_of, mask_of, scores_of
from trainables.selection import Difference, Selected, Selection
from trainables.statistics import Interval


def trained(*layers, kl, seconds=(1.0, 3.0), halves=None):
    """A mask as if trained, with its KL on the even and on the odd validation blocks; the same on both by default."""
    scores = {"validation.spon": scores_of([*(halves or (kl, kl))] * 6)}
    return checkpoint_of(mask_of(*layers), {"val_kl_nats": kl}, scores, seconds)


@pytest.fixture
def found(tmp_path):
    """Sums up a search whose proxy scored masks on eight blocks, given the KL by layers, and trained some."""

    def sum_up(scored, *checkpoints, blocks=8, seconds=0.5):
        log = MaskLog(tmp_path / "masks.jsonl")
        for layers, kl in scored.items():
            log.add(MaskRecord(mask_of(*layers), blocks, kl, 3.0, (kl,) * blocks, seconds))
        return make_findings(Counts(new=len(scored)), log, 8, checkpoints, None)

    return sum_up


NOTHING = Findings(Counts(), None, None)


# The proxy


def test_the_rank_correlation_is_over_masks_that_were_scored_and_trained(found):
    scored = {(1,): 0.1, (2,): 0.2, (3,): 0.3, (4,): 0.0}
    proxy = found(scored, trained(1, kl=1.0), trained(2, kl=2.0), trained(3, kl=9.0), trained(7, kl=0.0)).proxy
    assert (proxy.n_masks, proxy.rank_correlation.value) == (3, pytest.approx(1.0))
    assert found(scored, *(trained(i, kl=1 / i) for i in (1, 2, 3))).proxy.rank_correlation.value == pytest.approx(-1)


def test_the_reliability_says_how_well_one_half_of_the_text_predicts_the_other(found):
    scored = {(1,): 0.1, (2,): 0.2, (3,): 0.3}
    sure = [trained(layer, kl=layer) for layer in (1, 2, 3)]
    chance = [trained(layer, kl=1.0, halves=(layer, -layer)) for layer in (1, 2, 3)]
    assert found(scored, *sure).proxy.rank_reliability.value == pytest.approx(1.0)
    assert found(scored, *chance).proxy.rank_reliability.value == pytest.approx(-1.0)


@pytest.mark.parametrize("kls", [(0.5, 0.6), (0.5, 0.5, 0.5)], ids=["two masks", "all the same"])
def test_there_is_no_rank_correlation_of_too_little(found, kls):
    real = [trained(layer, kl=kl) for layer, kl in enumerate(kls)]
    proxy = found({(layer,): layer / 10 for layer in range(3)}, *real).proxy
    assert (proxy.n_masks, proxy.rank_correlation) == (len(kls), None)


def test_scores_on_less_text_are_not_the_masks_scores(found):
    assert found({(1,): 0.1}, trained(1, kl=0.1), blocks=2).proxy is None


def test_teal_alone_is_not_among_the_masks(found):
    assert found({(): 0.1, (1,): 0.2}, trained(kl=0.1), trained(1, kl=0.2)).proxy.n_masks == 1


def test_a_search_without_proxy_has_no_findings_of_one(found):
    assert found({}, trained(1, kl=0.1)) == NOTHING


def test_the_costs_are_medians(found):
    real = [trained(1, kl=0.1), trained(2, kl=0.2, seconds=(2.0, 5.0)), trained(3, kl=0.3, seconds=(90.0,))]
    proxy = found({(1,): 0.1, (2,): 0.2, (3,): 0.3}, *real, seconds=0.5).proxy
    assert (proxy.seconds_per_mask, proxy.seconds_per_trial) == (0.5, 7.0)


# For people


HALF = Interval(0.5, 0.4, 0.6)


def mask(name, role, recovered=HALF):
    return Selected(
        name=name,
        role=role,
        sites=("1.down_proj", "2.down_proj"),
        n_spon_params=16,
        seeds=(1, 2),
        checkpoints=("a", "b"),
        val_kl_nats=0.25,
        test_kl_nats=0.125,
        test_nll_nats=2.0,
        test_ppl=7.389,
        test_kl_recovered=recovered,
        test_ppl_recovered=recovered,
    )


def selection_of(kl, rival="TOP-50", **changes):
    difference = Difference(chosen="found", against="TOP-50", kl_nats=kl, nll_nats=kl, kl_nats_by_seed=(-0.5, 0.25))
    return Selection(
        sweep="s",
        plan="down_proj@0.50",
        teal_test_kl_nats=0.75,
        teal_test_ppl=9.5,
        dense_test_ppl=6.5,
        confidence=0.975,
        bootstrap_over="documents",
        masks=(mask("found", "chosen", **changes), mask("TOP-50", "named")),
        differences=(difference,),
        best_rival={"found": rival},
    )


POWER = Power(n_masks=9, n_blocks=64, block_size=128, reliability=0.25, kl_nats=0.5, paired_sd_nats=0.01)
BETTER, WORSE, UNSURE = (Interval(-0.2, -0.3, -0.1), Interval(0.2, 0.1, 0.3), Interval(-0.2, -0.5, 0.1))


@pytest.mark.parametrize(
    ("kl", "verdict"),
    [
        (BETTER, "found is better than TOP-50"),
        (WORSE, "found is worse than TOP-50"),
        (UNSURE, "found is not clearly better than TOP-50"),
        (Interval(0.2, -0.1, 0.5), "found is not clearly better than TOP-50"),
    ],
)
def test_the_last_line_says_who_won_and_the_differences_are_given_by_seed(tmp_path, kl, verdict):
    lines = write_findings(NOTHING, selection_of(kl), tmp_path).splitlines()
    assert lines[-1].startswith(verdict)
    assert f"{kl.value:+.5f} [{kl.low:+.5f}, {kl.high:+.5f}]" in lines[-1]
    assert next(line for line in lines if " - " in line).endswith("-0.5000 +0.2500")
    assert max(map(len, lines)) <= 110


def test_the_last_line_says_that_there_was_no_rival(tmp_path):
    text = write_findings(NOTHING, selection_of(BETTER, rival=None), tmp_path)
    assert text.splitlines()[-1] == "found: no allocation of the space is as small"


def test_a_recovery_of_uncertain_damage_is_not_a_number(tmp_path):
    assert "no clear damage" in write_findings(NOTHING, selection_of(BETTER, recovered=None), tmp_path)


def test_the_findings_are_the_power_the_proposals_and_the_proxy_as_text_and_as_json(tmp_path):
    proxy = ProxyFindings(9, Interval(0.75, 0.5, 1.0), HALF, seconds_per_mask=0.5, seconds_per_trial=20.0)
    text = write_findings(Findings(Counts(new=5, repeated=4, strayed=2), proxy, POWER), None, tmp_path)
    power, _, proposals, *_ = text.splitlines()
    assert power.startswith("can the text tell: 9 masks")
    assert proposals == "proposals: 5 masks evaluated; 4 more were known and cost nothing, 2 were drawn at random"
    assert "a mask takes 0.5 s, training it 40 times as long" in text
    assert "Spearman of the two over 9 masks +0.75 [+0.50, +1.00]" in text
    assert (tmp_path / FINDINGS).read_text() == text + "\n"
    assert json.loads((tmp_path / "findings.json").read_text())["proposals"]["new"] == 5


def test_a_search_whose_text_cannot_tell_says_what_it_would_take(tmp_path):
    write_stop(POWER, 0.5, tmp_path)
    lines = (tmp_path / FINDINGS).read_text().splitlines()
    assert "reliability of 0.25" in lines[0]
    assert "a reliability of 0.5 is required; about 192 blocks would suffice" in lines[2]
    assert "set search.proxy.least_reliability to 0" in lines[3]
    assert json.loads((tmp_path / "findings.json").read_text())["power"]["n_masks"] == 9
