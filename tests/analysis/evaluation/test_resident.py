"""The three modes: those of the trial's own scores, on one model that is dense again afterwards."""

import sys
from dataclasses import replace

import pytest

from analysis.evaluation.resident import MODES, Resident, quiet
from analysis.subject import check_repaired
from search_spaces.errors import SponError
from trainables.evaluation import score
from trainables.workbench import Workbench


@pytest.mark.parametrize("policy", ["all", "second_half"])
def test_teal_scores_as_in_the_trial_and_the_biases_change_it(policy, resident_of):
    resident: Resident = resident_of(policy)
    bench = Workbench(resident.config.model, resident.config.corpus, "cpu")
    blocks, teacher = bench.blocks("validation"), bench.teacher("validation")
    kl = {}
    for mode in MODES:
        with resident.mode(mode):
            kl[mode] = score(resident.model, blocks, teacher).kl_nats
    resident.model.check_dense()
    assert kl["dense"] == pytest.approx(0, abs=1e-5)
    assert kl["teal"] == pytest.approx(resident.checkpoint.scores["validation.teal"].kl_nats, rel=1e-4)
    assert kl["spon"] > kl["teal"] + 0.01  # random biases


def test_what_is_not_three_models_is_refused(resident_of):
    checkpoint = resident_of().checkpoint
    with pytest.raises(SponError, match="has no biases"):
        check_repaired(replace(checkpoint, biases={}), "an evaluation")
    plan = checkpoint.meta.config.plan.model_copy(update={"levels": {}})
    config = checkpoint.meta.config.model_copy(update={"plan": plan})
    with pytest.raises(SponError, match="sparsifies nothing"):
        check_repaired(replace(checkpoint, meta=checkpoint.meta.model_copy(update={"config": config})), "an evaluation")


def test_quiet_is_of_the_error_stream_alone(capsys):
    with quiet():
        print("bar", file=sys.stderr)
        print("result")
    print("fault", file=sys.stderr)
    assert capsys.readouterr() == ("result\n", "fault\n")
