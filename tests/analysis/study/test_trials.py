import json

import pytest
import torch
from transformers import LlamaConfig

from analysis.study.read import read_study
from analysis.study.trials import llama_shape, study_trials, write_checkpoints
from search_spaces.errors import SponError
from search_spaces.schema import ModelConfig
from tests.analysis.study.fabricated import checkpoint, edit, results, vectors, write_results
from trainables.checkpoint import read_checkpoint
from trainables.model import find_model, read_shape


def test_the_shape_is_that_of_the_architecture(tmp_path):
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128_256,
        tie_word_embeddings=True,
    ).save_pretrained(tmp_path)
    assert llama_shape() == read_shape(find_model(ModelConfig(source=str(tmp_path))))


def test_a_run_becomes_the_trial_that_this_repository_would_train(study_directory):
    trial = study_trials(read_study(study_directory).results)["ATTN-ONLY", 0.5]
    assert trial.plan_label == "o_proj@0.50 topk"
    assert len(trial.plan.levels) == 16
    assert trial.n_spon_params == 32768
    assert (trial.training.lr, trial.training.epochs, trial.training.batch_size, trial.training.seed) == (2e-5, 3, 4, 7)
    assert (trial.corpus.blocks.calibration, trial.corpus.blocks.test, trial.corpus.block_size) == (6, 2, 128)


def test_a_checkpoint_is_ours_afterwards(study_directory, tmp_path):
    study = read_study(study_directory)
    places = write_checkpoints(study, study_trials(study.results), tmp_path / "out")
    taken = read_checkpoint(places[0])
    assert places[0].parent.name == taken.meta.config.name
    assert {str(s): v.tolist() for s, v in taken.biases.items()} == {
        f"{layer}.down_proj": vector.tolist() for layer, vector in enumerate(vectors("TOP-50").values())
    }
    assert taken.scores == {}
    assert taken.meta.paths["3.down_proj"] == "model.layers.3.mlp.down_proj"
    assert taken.meta.config.model_fingerprint == "meta-llama/Llama-3.2-1B@not recorded"
    assert len(taken.meta.config.plan.levels) == 16
    assert taken.meta.metrics["test_ppl"] == results()["results"]["TOP-50_s0.5"]["perplexity"]


def test_importing_twice_is_harmless(study_directory, tmp_path):
    study = read_study(study_directory)
    trials = study_trials(study.results)
    assert write_checkpoints(study, trials, tmp_path) == write_checkpoints(study, trials, tmp_path)


def test_a_study_of_another_model_is_refused(study_directory):
    edit(study_directory / "results.json", "config", "model_name", value="other/model")
    with pytest.raises(SponError, match="but got other/model"):
        study_trials(read_study(study_directory).results)


def test_a_run_with_other_layers_than_its_name_says_is_refused(study_directory):
    raw = results()
    raw["results"]["TOP-50_s0.5"]["num_spon_layers"] = 9
    write_results(study_directory, raw)
    with pytest.raises(SponError, match="TOP-50 with 9 layers"):
        study_trials(read_study(study_directory).results)


def test_runs_on_different_texts_are_refused(study_directory):
    raw = results()
    raw["results"]["TOP-50_s0.5"]["num_tokens"] = 127
    write_results(study_directory, raw)
    with pytest.raises(SponError, match="one set of whole blocks"):
        study_trials(read_study(study_directory).results)


def test_vectors_of_another_width_are_refused_and_nothing_is_written(study_directory, tmp_path):
    narrow = {site: vector[:8] for site, vector in vectors("UNIF-ALL").items()}
    torch.save(checkpoint("UNIF-ALL") | {"biases": narrow}, study_directory / "spon_UNIF-ALL_s0.50.pt")
    study = read_study(study_directory)
    with pytest.raises(SponError, match=r"shape \(8,\) for width 2048"):
        write_checkpoints(study, study_trials(study.results), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_no_run_is_refused(study_directory, tmp_path):
    study = read_study(study_directory)
    trials = {key: trial for key, trial in study_trials(study.results).items() if key[0] != "UNIF-ALL"}
    with pytest.raises(SponError, match="UNIF-ALL has none"):
        write_checkpoints(study, trials, tmp_path)


def test_the_settings_are_read_back_from_disk(study_directory, tmp_path):
    study = read_study(study_directory)
    place = write_checkpoints(study, study_trials(study.results), tmp_path)[0]
    assert json.loads((place / "meta.json").read_text())["config"]["corpus"]["source"] == "Salesforce/wikitext"
