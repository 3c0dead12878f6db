import pytest
from pydantic import ValidationError

from search_spaces.search_stages import Asha, ConfirmConfig, ProxyConfig


def test_a_proxy_has_one_rung_and_the_spaces_own_epochs_unless_it_says_otherwise():
    given = {"rungs": (16,), "epochs": None, "n_train": 8, "n_reference": 10, "least_reliability": 0.5}
    assert ProxyConfig().model_dump() == given


@pytest.mark.parametrize("rungs", [(4, 4), (16, 4), (4, 16, 8)], ids=str)
def test_rungs_that_do_not_grow_are_refused(rungs):
    with pytest.raises(ValidationError, match="more blocks each than the one before, but got"):
        ProxyConfig(rungs=rungs)


@pytest.mark.parametrize("rungs", [(), (0,), (-1, 4)], ids=str)
def test_rungs_without_blocks_are_refused(rungs):
    with pytest.raises(ValidationError, match="rungs"):
        ProxyConfig(rungs=rungs)


@pytest.mark.parametrize("counts", [{"epochs": 0}, {"n_train": 0}, {"n_reference": -1}], ids=str)
def test_counts_of_a_proxy_without_meaning_are_refused(counts):
    with pytest.raises(ValidationError, match=next(iter(counts))):
        ProxyConfig(**counts)


def test_a_grace_period_without_a_rung_is_refused():
    with pytest.raises(ValidationError, match="grace_period"):
        Asha(grace_period=0)


def test_a_reduction_that_lets_all_go_on_is_refused():
    with pytest.raises(ValidationError, match="greater than 1"):
        Asha(reduction_factor=1)


def test_confirmation_has_three_seeds_one_mask_and_five_random_controls_unless_it_says_otherwise():
    assert ConfirmConfig().model_dump() == {"seeds": (1, 2, 3), "n_chosen": 1, "n_random": 5}


def test_a_seed_of_confirmation_is_listed_once():
    with pytest.raises(ValidationError, match=r"a seed must be listed once, but got \[1, 2, 1\]"):
        ConfirmConfig(seeds=(1, 2, 1))


@pytest.mark.parametrize("given", [{"seeds": ()}, {"seeds": (-1,)}, {"n_chosen": 0}, {"n_random": -1}], ids=str)
def test_counts_of_a_confirmation_without_meaning_are_refused(given):
    with pytest.raises(ValidationError, match=next(iter(given))):
        ConfirmConfig(**given)
