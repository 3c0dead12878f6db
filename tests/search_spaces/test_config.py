import math
from typing import Any

import pytest
from pydantic import ValidationError

from search_spaces.config import (
    AllocationConfig,
    CorpusConfig,
    ModelConfig,
    PlanConfig,
    ResourcesConfig,
    SpaceConfig,
    TrainingConfig,
)


def space(**changes: Any) -> SpaceConfig:
    given = {"name": "s", "model": {"dtype": "float32"}, "sparsity": [0.5], "allocations": ["TOP-50"], **changes}
    return SpaceConfig.model_validate(given)


def test_lists_become_tuples_and_names_become_allocations():
    config = space()
    assert config.sparsity == (0.5,)
    assert config.allocations == (AllocationConfig(name="TOP-50"),)


def test_a_space_survives_being_written_and_read():
    config = space(
        allocations=["TOP-50", {"name": "mine", "sites": ["0.o_proj"]}], plan={"levels": {"0.down_proj": 0.4}}
    )
    assert SpaceConfig.model_validate_json(config.model_dump_json()) == config


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        space().name = "other"  # type: ignore[misc]


def test_the_training_defaults_are_the_studys():
    assert TrainingConfig().model_dump(exclude_defaults=False) == {
        "form": "output_bias",
        "init": "zero",
        "init_scale": 0.5,
        "temperature": 1.0,
        "batch_size": 8,
        "gradient_accumulation_steps": 1,
        "epochs": 10,
        "max_steps": None,
        "lr": 1e-5,
        "gain_lr": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "schedule": "constant",
        "warmup_steps": 0,
        "eval_every_steps": None,
        "early_stopping_patience": None,
        "seed": 42,
    }


@pytest.mark.parametrize("level", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_a_sparsity_outside_zero_to_one_is_refused(level):
    with pytest.raises(ValidationError, match="sparsity"):
        space(sparsity=[level])


@pytest.mark.parametrize("level", [0.0, 0.999])
def test_a_sparsity_inside_zero_to_one_is_taken(level):
    assert space(sparsity=[level]).sparsity == (level,)


@pytest.mark.parametrize("key", ["sparsity", "allocations", "seeds"])
def test_an_axis_of_the_grid_cannot_be_empty(key):
    with pytest.raises(ValidationError, match=key):
        space(**{key: []})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"sparsity": [0.5, 0.6, 0.50]}, "a sparsity must be listed once, but 0.5 is listed twice"),
        ({"allocations": ["TOP-50", "UNIF-ALL", "TOP-50"]}, "an allocation must be listed once, but TOP-50 is"),
        ({"seeds": [1, 2, 1]}, "a seed must be listed once, but 1 is listed twice"),
    ],
)
def test_a_value_listed_twice_is_refused(changes, line):
    with pytest.raises(ValidationError, match=line):
        space(**changes)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_a_generator_cannot_take_is_refused(seed):
    with pytest.raises(ValidationError, match="seeds"):
        space(seeds=[seed])


@pytest.mark.parametrize(("seed", "seeds"), [(7, [42]), (42, [1]), (1, [1, 2])])
def test_a_training_seed_beside_other_seeds_is_refused_because_it_would_be_ignored(seed, seeds):
    with pytest.raises(ValidationError, match=rf"given as seeds, .*but got training\.seed={seed}, seeds=\[{seeds[0]}"):
        space(training={"seed": seed}, seeds=seeds)


def test_a_training_seed_that_is_the_only_seed_is_taken():
    assert space(training={"seed": 7}, seeds=[7]).seeds == (7,)


@pytest.mark.parametrize("name", ["", "a b", "../up", "-x", "a/b"])
def test_a_sweep_name_that_cannot_be_a_folder_is_refused(name):
    with pytest.raises(ValidationError, match="name"):
        space(name=name)


@pytest.mark.parametrize("modules", ["down_proj", [], None, 3])
def test_plan_modules_that_are_neither_matched_nor_a_list_are_refused(modules):
    with pytest.raises(ValidationError, match="modules must be 'matched', 'all' or a list of module types"):
        PlanConfig.model_validate({"modules": modules})


def test_an_unknown_module_of_a_plan_is_refused_with_those_that_exist():
    with pytest.raises(ValidationError, match=r"a module must be one of q_proj, .*down_proj, but got 'fc1'"):
        PlanConfig.model_validate({"modules": ["q_proj", "fc1"]})


def test_an_unknown_module_of_an_allocation_is_refused_with_those_that_exist():
    with pytest.raises(ValidationError, match=r"should be 'q_proj', .*'down_proj'"):
        AllocationConfig.model_validate({"name": "TOP-50", "modules": ["fc1"]})


@pytest.mark.parametrize("key", ["rule", "tokens"])
def test_an_unknown_rule_or_token_policy_is_refused(key):
    with pytest.raises(ValidationError, match="Input should be"):
        PlanConfig.model_validate({key: "magic"})


def test_a_plan_without_layers_is_refused():
    with pytest.raises(ValidationError, match=r"at least one layer, but got layers=\[\]"):
        PlanConfig(layers=())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"levels": "greedy"}, "measured levels must have a list of modules, but got greedy"),
        ({"levels": ["uniform", "fisher"]}, "measured levels must have a list of modules, but got uniform, fisher"),
        ({"levels": []}, r"at least one method and each once, but got \[\]"),
        ({"levels": ["uniform", "uniform"]}, r"each once, but got \['uniform', 'uniform'\]"),
        ({"levels": "best"}, "Input should be 'uniform', 'greedy' or 'fisher'"),
        ({"bounds": [0.5, 0.5]}, r"bounds must be \[lowest, highest\], but got \[0.5, 0.5\]"),
    ],
)
def test_wrong_methods_and_bounds_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        PlanConfig.model_validate(given)


@pytest.mark.parametrize(("levels", "measured"), [("uniform", False), (["uniform", "fisher"], True), ({}, False)])
def test_levels_are_a_method_some_methods_or_a_level_a_site(levels, measured):
    found = PlanConfig.model_validate({"modules": ["o_proj"], "levels": levels})
    assert found.is_measured == measured
    assert PlanConfig.model_validate_json(found.model_dump_json()) == found


def test_a_sparsity_that_the_bounds_cannot_meet_is_refused():
    given = {"modules": ["o_proj"], "levels": "fisher", "bounds": [0.2, 0.9]}
    with pytest.raises(ValidationError, match=r"within plan.bounds, but got sparsity 0.1, plan.bounds=\[0.2, 0.9\]"):
        space(plan=given, sparsity=[0.5, 0.1])


@pytest.mark.parametrize("given", [{"name": "TOP-50", "above": 0.1}, {"name": "CORNERSTONE-50", "above": 0.1}])
def test_a_threshold_is_only_for_what_is_measured_without_a_percent(given):
    with pytest.raises(ValidationError, match="above may be given only to GRADIENT, CORNERSTONE"):
        AllocationConfig.model_validate(given)


def test_a_measured_allocation_is_no_longer_so_once_it_has_layers():
    assert AllocationConfig.model_validate("CORNERSTONE").is_measured
    assert not AllocationConfig.model_validate("CORNERSTONE").model_copy(update={"layers": (1,)}).is_measured
    assert not AllocationConfig.model_validate("TOP-50").is_measured


@pytest.mark.parametrize(
    ("levels", "line"),
    [
        ({"x.down_proj": 0.4}, "a site must be LAYER.MODULE"),
        ({"3.down_proj": 0.4, "03.down_proj": 0.5}, "a site must be named once, but got 3.down_proj twice"),
        ({"3.down_proj": 1.0}, "less than 1"),
    ],
)
def test_a_wrong_level_is_refused(levels, line):
    with pytest.raises(ValidationError, match=line):
        PlanConfig(levels=levels)


def test_an_unknown_allocation_is_refused():
    with pytest.raises(ValidationError, match=r"an allocation must be one of BASELINE-TEAL, .* but got 'NOSUCH'"):
        AllocationConfig(name="NOSUCH")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"name": "a", "sites": ["0.o_proj"], "layers": [0]}, "either sites, or layers and modules, but a gives both"),
        ({"name": "a", "layers": []}, "must have a site unless it is BASELINE-TEAL, but a has none"),
        ({"name": "a", "sites": []}, "must have a site"),
        ({"name": "TOP-50", "modules": []}, "must have a site"),
        ({"name": "a", "sites": ["0.o_proj", "0.o_proj"]}, "named once, but got 0.o_proj twice"),
        ({"name": "a", "sites": ["0.fc1"]}, "a site must be LAYER.MODULE"),
        ({"name": "TOP-50", "layers": [7]}, "must have a name of their own, but got TOP-50"),
        ({"name": "TOP-50", "seed": 1}, "a seed may be given only to RANDOM-k, but got TOP-50 with seed 1"),
    ],
)
def test_an_allocation_that_contradicts_itself_is_refused(given, line):
    with pytest.raises(ValidationError, match=line):
        AllocationConfig.model_validate(given)


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ({"name": "TOP-50"}, "TOP-50"),
        ({"name": "RANDOM-4", "seed": 2}, "RANDOM-4#2"),
        ({"name": "UNIF-ALL", "modules": ["o_proj", "down_proj"]}, "UNIF-ALL[o_proj+down_proj]"),
        ({"name": "mine", "layers": [1], "modules": ["o_proj"]}, "mine"),
    ],
)
def test_a_label_tells_apart_two_uses_of_a_name(given, label):
    assert AllocationConfig.model_validate(given).label == label


@pytest.mark.parametrize("given", [{"lr": 0}, {"lr": math.inf}, {"temperature": 0}, {"epochs": 0}, {"form": "mse"}])
def test_training_numbers_without_meaning_are_refused(given):
    with pytest.raises(ValidationError, match=next(iter(given))):
        TrainingConfig.model_validate(given)


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (0.5, "cuda"), (1, "cuda")])
def test_a_trial_is_on_cuda_exactly_when_it_asks_for_a_gpu(gpus, device):
    assert ResourcesConfig(gpus_per_trial=gpus).device == device


def test_memory_is_asked_of_ray_in_bytes_and_only_where_it_is_given():
    assert ResourcesConfig(memory_gib=0.5).bundle == {"CPU": 1, "memory": 2**29}
    assert ResourcesConfig().bundle == {"CPU": 1}


@pytest.mark.parametrize("gpus", [1.5, 4])
def test_more_than_one_gpu_is_refused_because_a_trial_uses_one(gpus):
    with pytest.raises(ValidationError, match=f"must use one GPU, or a fraction to share one, but got .*={gpus}"):
        ResourcesConfig(gpus_per_trial=gpus)


def test_a_revision_of_the_embedded_model_is_refused():
    with pytest.raises(ValidationError, match="only for a Hugging Face model, but got 'main'"):
        ModelConfig(revision="main")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"source": "files"}, "a corpus of files must name calibration and test files"),
        ({"files": {"calibration": ["a"]}}, "only with source: files, but got source: embedded"),
        ({"source": "files", "files": {"calibration": ["a"], "test": []}}, "at least 1 item"),
        ({"source": "files", "files": {"calibration": ["a", "b"], "test": ["b"]}}, "one split only, but got 'b' twice"),
        ({"source": "x/y", "splits": {"calibration": "train"}}, "splits must name calibration and test"),
        ({"source": "x/y", "splits": {"calibration": "train", "test": "train"}}, "one split only, but got 'train'"),
        ({"source": "x/y", "splits": {"calibration": "a", "test": "b", "dev": "c"}}, "'calibration', 'validation' or"),
        ({"name": "wikitext"}, "only for a hub dataset, but got 'wikitext'"),
        ({"source": "x/y", "document": "paragraph"}, "text files, but got document: paragraph and source: x/y"),
        ({"document": "file"}, "only for text files, but got document: file and source: embedded"),
        ({"document": "heading"}, "must be row where a row is an article, but got document: heading"),
        ({"block_size": 1}, "greater than or equal to 2"),
        ({"blocks": {"test": 0}}, "greater than or equal to 1"),
    ],
)
def test_a_corpus_that_contradicts_itself_is_refused(given, line):
    with pytest.raises(ValidationError, match=line):
        CorpusConfig.model_validate(given)


def test_gains_need_a_start_to_scale():
    with pytest.raises(ValidationError, match="gain_lr must be 0 with init: zero"):
        TrainingConfig(gain_lr=0.1)


@pytest.mark.parametrize("dtype", ["float16", "fp32", 16])
def test_a_dtype_that_no_trial_has_is_refused(dtype):
    with pytest.raises(ValidationError, match="Input should be 'auto', 'float32' or 'bfloat16'"):
        space(model={"dtype": dtype})
