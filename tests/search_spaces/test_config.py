"""What a space may say, and the one line with which anything else is refused."""

import math

import pytest
import yaml
from pydantic import ValidationError

from search_spaces.config import (
    AllocationConfig,
    Asha,
    ConfirmConfig,
    Nsga2,
    PlanConfig,
    ProxyConfig,
    ResourcesConfig,
    SpaceConfig,
    Tpe,
    TrainingConfig,
)
from search_spaces.errors import SponError
from search_spaces.load import parse_space
from search_spaces.masks import ExactlyK, Subset
from tests.search_spaces.conftest import make_space

TWO = ["o_proj", "down_proj"]


def refused(text: str) -> str:
    """The message for a small space with changes in YAML."""
    base = {"name": "s", "sparsity": [0.5], "allocations": ["TOP-50"]}
    with pytest.raises(SponError) as caught:
        parse_space(base | yaml.safe_load(text), "here")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{speed: 1}", "a key must be one of name, model, corpus, plan,"),
        ("{allocatons: [TOP-50]}", "but got 'allocatons'; did you mean 'allocations'? (at allocatons in here)"),
        ("{name: ''}", "at least 1 character, but got '' (at name in here)"),
        ("{name: a b}", "but got 'a b' (at name in here)"),
        ("{name: ../up}", "but got '../up' (at name in here)"),
        ("{name: a/b}", "but got 'a/b' (at name in here)"),
        ("{sparsity: 0.5}", "the value must be a list, but got 0.5 (at sparsity in here)"),
        ("{sparsity: []}", "at least 1 item after validation, not 0, but got [] (at sparsity in here)"),
        ("{sparsity: [0.5, 0.6, 0.50]}", "a sparsity must be listed once, but 0.5 is listed twice (at the whole space"),
        ("{allocations: []}", "at least 1 item after validation, not 0, but got [] (at allocations in here)"),
        ("{allocations: [UNIF-ALL, UNIF-ALL]}", "an allocation must be listed once, but UNIF-ALL is listed twice"),
        ("{seeds: []}", "at least 1 item after validation, not 0, but got [] (at seeds in here)"),
        ("{seeds: [1, 2, 1]}", "a seed must be listed once, but 1 is listed twice"),
        ("{seeds: [-1]}", "but got -1 (at seeds.0 in here)"),
        ("{seeds: [4294967296]}", "but got 4294967296 (at seeds.0 in here)"),
        ("{model: }", "the value must be a mapping of keys, but got None (at model in here)"),
        ("{model: {dtype: float16}}", "must be 'auto', 'float32' or 'bfloat16', but got 'float16' (at model.dtype in"),
        ("{model: {revision: main}}", "only for a Hugging Face model, but got 'main' (at model in here)"),
        (
            "{resources: {gpus_per_trial: 1.5}}",
            "must use one GPU, or a fraction to share one, but got gpus_per_trial=1",
        ),
        ("{resources: {accelerator_type: a b}}", "but got 'a b' (at resources.accelerator_type in here)"),
        # Training
        ("{training: {seed: 1}, seeds: [1, 2]}", "overrides training.seed, but got training.seed=1, seeds=[1, 2]"),
        ("{training: {seed: 42}, seeds: [1]}", "but got training.seed=42, seeds=[1]"),
        ("{training: {lr: 0}}", "the value must be greater than 0, but got 0 (at training.lr in here)"),
        ("{training: {lr: .inf}}", "(at training.lr in here)"),
        ("{training: {temperature: 0}}", "(at training.temperature in here)"),
        ("{training: {epochs: 0}}", "(at training.epochs in here)"),
        (
            "{training: {form: mse}}",
            "must be 'output_bias' or 'input_vector', but got 'mse' (at training.form in here)",
        ),
        ("{training: {gain_lr: 0.1}}", "gain_lr must be 0 with init: zero, which has no start to scale, but got 0.1"),
        (
            "{training: {loss: ce}}",
            "'loss'; it is always the KL to the dense model: leave the key out (at training.loss",
        ),
        # Text
        ("{corpus: {blocks: {dev: 1}}}", "one of calibration, validation, test, but got 'dev' (at corpus.blocks.dev"),
        ("{corpus: {blocks: {test: 0}}}", "greater than or equal to 1, but got 0 (at corpus.blocks.test in here)"),
        ("{corpus: {block_size: 1}}", "greater than or equal to 2, but got 1 (at corpus.block_size in here)"),
        ("{corpus: {document: heading}}", "must be row where a row is an article, but got document: heading"),
        ("{corpus: {document: file}}", "only for text files, but got document: file and source: embedded"),
        ("{corpus: {source: x/y, document: paragraph}}", "but got document: paragraph and source: x/y"),
        ("{corpus: {name: wikitext}}", "only for a hub dataset, but got 'wikitext' (at corpus in here)"),
        ("{corpus: {source: files}}", "a corpus of files must name calibration and test files, but got []"),
        ("{corpus: {files: {calibration: [a]}}}", "only with source: files, but got source: embedded"),
        ("{corpus: {source: files, files: {calibration: [a], test: []}}}", "at least 1 item"),
        ("{corpus: {source: files, files: {calibration: [a, b], test: [b]}}}", "one split only, but got 'b' twice"),
        ("{corpus: {source: x/y, splits: {calibration: a}}}", "splits must name calibration and test"),
        ("{corpus: {source: x/y, splits: {calibration: a, test: a}}}", "one split only, but got 'a' twice"),
        (
            "{corpus: {splits: {dev: a}}}",
            "'calibration', 'validation' or 'test', but got 'dev' (at corpus.splits.dev in",
        ),
        # Plans
        ("{plan: {rul: topk}}", "but got 'rul'; did you mean 'rule'? (at plan.rul in here)"),
        ("{plan: {rule: magic}}", "the value must be 'topk' or 'threshold', but got 'magic' (at plan.rule in here)"),
        ("{plan: {tokens: magic}}", "(at plan.tokens in here)"),
        ("{plan: {within_layer: greedy}}", "'within_layer'; write plan.levels: greedy (at plan.within_layer in here)"),
        ("{plan: {layers: []}}", "must sparsify at least one layer, but got layers=[] (at plan in here)"),
        ("{plan: {modules: down_proj}}", "must be 'matched', 'all' or a list of module types, but got 'down_proj'"),
        ("{plan: {modules: []}}", "must be 'matched', 'all' or a list of module types, but got []"),
        ("{plan: {modules: [q_proj, fc1]}}", "a module must be one of q_proj, k_proj, v_proj, o_proj, gate_proj,"),
        ("{plan: {levels: {x: 0.1}}}", "a site must be LAYER.MODULE with a module of q_proj,"),
        (
            "{plan: {levels: {3.q_proj: 0.4, 03.q_proj: 0.5}}}",
            "named once, but got 3.q_proj twice (at plan.levels in here",
        ),
        ("{plan: {levels: {3.q_proj: 1.0}}}", "the value must be less than 1, but got 1.0"),
        ("{plan: {levels: []}}", "must name at least one method and each once, but got []"),
        ("{plan: {levels: [uniform, uniform]}}", "each once, but got ['uniform', 'uniform'] (at plan.levels in here)"),
        ("{plan: {levels: best}}", "the value must be 'uniform', 'greedy' or 'fisher', but got 'best'"),
        ("{plan: {levels: [uniform, fisher]}}", "measured levels must have a list of modules, but got uniform, fisher"),
        (
            "{plan: {bounds: [0.5, 0.5]}}",
            "bounds must be [lowest, highest], but got [0.5, 0.5] (at plan.bounds in here)",
        ),
        (
            "{plan: {modules: all, levels: fisher, bounds: [0.2, 0.9]}, sparsity: [0.5, 0.1]}",
            "a sparsity must lie within plan.bounds, but got sparsity 0.1, plan.bounds=[0.2, 0.9]",
        ),
        # Allocations
        ("{allocations: [TOP-50, NOSUCH]}", "an allocation must be one of BASELINE-TEAL,"),
        ("{allocations: [3]}", "the value must be a mapping of keys, but got 3 (at allocations.0 in here)"),
        ("{allocations: [{name: a, layer: [1]}]}", "'layer'; did you mean 'layers'? (at allocations.0.layer in here)"),
        ("{allocations: [{name: TOP-50, modules: [fc1]}]}", "but got 'fc1' (at allocations.0.modules.0 in here)"),
        ("{allocations: [{name: a, sites: [0.o_proj], layers: [0]}]}", "either sites, or layers and modules, but a"),
        ("{allocations: [{name: a, layers: []}]}", "must have a site unless it is BASELINE-TEAL, but a has none"),
        ("{allocations: [{name: a, sites: []}]}", "must have a site unless it is BASELINE-TEAL, but a has none"),
        ("{allocations: [{name: TOP-50, modules: []}]}", "must have a site unless it is BASELINE-TEAL, but TOP-50"),
        ("{allocations: [{name: a, sites: [0.o_proj, 0.o_proj]}]}", "named once, but got 0.o_proj twice"),
        ("{allocations: [{name: TOP-50, layers: [7]}]}", "must have a name of their own, but got TOP-50"),
        ("{allocations: [{name: TOP-50, seed: 1}]}", "only to RANDOM-k, but got TOP-50 with seed 1"),
        ("{allocations: [{name: TOP-50, above: 0.1}]}", "above may be given only to GRADIENT, CORNERSTONE,"),
        ("{allocations: [{name: CORNERSTONE-50, above: 0.1}]}", "but got CORNERSTONE-50 with above=0.1"),
        ("{allocations: [{name: TOP-50, levels: [fisher]}]}", "but got TOP-50 with fisher, plan.levels=['uniform']"),
        # Searches
        ("{search: {}}", "a key without a default must be given, but it is missing (at search.masks in here)"),
        ("{search: {masks: subset}}", "must be a mapping of keys, but got 'subset' (at search.masks in here)"),
        ("{search: {masks: {k: 1}}}", "the key 'family' must be given, but got {'k': 1} (at search.masks in here)"),
        ("{search: {masks: {family: shapes}}}", "'ranked', but got 'shapes' (at search.masks.family in here)"),
        ("{search: {masks: {family: exactly_k}}}", "but it is missing (at search.masks.k in here)"),
        ("{search: {masks: {family: exactly_k, k: -1}}}", "but got -1 (at search.masks.k in here)"),
        (
            "{search: {masks: {family: window, length: 2}}}",
            "one of modules, family, min_length, max_length, but got 'length'; did you mean 'min_length'? (at search.m",
        ),
        ("{search: {masks: {family: subset, modules: [fc1]}}}", "but got 'fc1' (at search.masks.modules.0 in here)"),
        ("{search: {masks: {family: subset, modules: []}}}", "must name at least one module and each once, but got []"),
        ("{search: {masks: {family: subset, modules: [o_proj, o_proj]}}}", "each once, but got [o_proj, o_proj]"),
        (
            "{search: {masks: {family: subset, modules: [o_proj, down_proj]}}}",
            "must list plan.modules, but got plan.modules=matched with masks of o_proj, down_proj",
        ),
    ],
)
def test_a_fault_is_one_line_with_rule_value_and_field(text, said):
    message = refused(text)
    assert said in message
    assert "Value error" not in message


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("budget: 1", "one of masks, algorithm, objectives, n_masks, seed, proxy, stopping, confirm, but got 'budget'"),
        ("lr: {low: 1}", "'lr'; only masks are searched (at search.lr in here)"),
        ("sparsity: [0.5]", "'sparsity'; a search has the one sparsity of its space (at search.sparsity in here)"),
        ("algorithm: bohb", "one of 'tpe', 'nsga2', 'random', 'grid', but got 'bohb' (at search.algorithm.name in"),
        ("algorithm: {name: tpe, liar: 1}", "one of name, n_startup_trials, but got 'liar' (at search.algorithm.liar"),
        ("algorithm: {name: tpe, multivariate: true}", "'multivariate'; TPE always models parameters jointly: leave"),
        ("objectives: [n_spon_params]", "[val_kl_nats, n_spon_params], but got [n_spon_params] (at search.objectives"),
        ("objectives: []", "objectives must be [val_kl_nats] or [val_kl_nats, n_spon_params], but got []"),
        (
            "proxy: {n_warm: 2}",
            "'n_warm'; masks are no longer trained a second time: leave the key out (at search.proxy",
        ),
        ("proxy: {rung: 4}", "but got 'rung'; did you mean 'rungs'? (at search.proxy.rung in here)"),
        ("proxy: {rungs: []}", "at least 1 item after validation, not 0, but got [] (at search.proxy.rungs in here)"),
        ("proxy: {rungs: [0]}", "but got 0 (at search.proxy.rungs.0 in here)"),
        ("proxy: {rungs: [4, 4]}", "each rung must have more blocks than the one before, but got [4, 4]"),
        ("proxy: {rungs: [4, 8]}", "stopping exactly when it has several rungs, but got rungs=[4, 8], stopping=None"),
        ("proxy: {}, stopping: asha", "several rungs, but got rungs=[16], stopping=asha (at search in here)"),
        ("proxy: {rungs: [4, 257]}, stopping: asha", "but got rungs=[4, 257], corpus.blocks.validation=256"),
        ("proxy: {n_train: 0}", "but got 0 (at search.proxy.n_train in here)"),
        ("stopping: median", "must be 'asha', but got 'median' (at search.stopping.name in here)"),
        ("stopping: {name: asha, reduction_factor: 0}", "but got 0 (at search.stopping.reduction_factor in here)"),
        (
            "stopping: {name: asha, grace_period: 1}",
            "'grace_period'; the first decision is after the first rung: leave",
        ),
        (
            "confirm: {seeds: []}",
            "at least 1 item after validation, not 0, but got [] (at search.confirm.seeds in here)",
        ),
        ("confirm: {seeds: [1, 1]}", "a seed must be listed once, but got [1, 1] (at search.confirm.seeds in here)"),
        ("confirm: {seeds: [8, 42]}", "must not use the seed that chooses the masks, but got seeds=[42], search.confi"),
        ("confirm: {n_random: -1}", "but got -1 (at search.confirm.n_random in here)"),
        ("confirm: {controls: 1}", "one of seeds, n_chosen, n_random, but got 'controls' (at search.confirm.controls"),
    ],
)
def test_a_fault_of_a_search_has_the_path_that_the_user_wrote(search, said):
    assert said in refused(f"search: {{masks: {{family: subset}}, {search}}}")


@pytest.mark.parametrize("space", ["sparsity: [0.5, 0.6]", "plan: {modules: all, levels: [uniform, fisher]}"])
def test_a_search_has_one_sparsity_and_one_way_to_spread_it(space):
    assert "must have one sparsity and one way to spread it, but got" in refused(
        f"{{search: {{masks: {{family: subset}}}}, {space}}}"
    )


@pytest.mark.parametrize("level", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_a_sparsity_outside_zero_to_one_is_refused(level):
    assert make_space(sparsity=[0.0, 0.999]).sparsity == (0.0, 0.999)
    with pytest.raises(ValidationError, match="sparsity"):
        make_space(sparsity=[level])


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        make_space().name = "other"  # type: ignore[misc]


def test_short_forms_are_what_they_stand_for():
    config = make_space(
        allocations=["TOP-50", "UNIF-ALL"],
        plan={"modules": TWO, "levels": "fisher"},
        search={"masks": {"family": "subset", "modules": TWO[::-1]}, "algorithm": "nsga2", "stopping": "asha"},
    )
    assert config.allocations == (AllocationConfig(name="TOP-50"), AllocationConfig(name="UNIF-ALL"))
    assert config.plan.levels == ("fisher",)
    assert (config.search.algorithm, config.search.stopping) == (Nsga2(), Asha())
    assert config.search.masks.modules == tuple(TWO)  # in the order of the forward pass


def test_the_training_defaults_are_the_studys():
    training = TrainingConfig()
    assert (training.form, training.init, training.temperature) == ("output_bias", "zero", 1.0)
    assert (training.batch_size, training.gradient_accumulation_steps, training.epochs) == (8, 1, 10)
    assert (training.lr, training.weight_decay, training.max_grad_norm) == (1e-5, 0.0, 1.0)
    assert (training.schedule, training.warmup_steps, training.seed) == ("constant", 0, 42)


def test_a_seed_that_does_not_choose_may_confirm():
    make_space(seeds=[7, 9], search={"masks": {"family": "subset"}, "confirm": {"seeds": [9]}})


def test_a_search_needs_only_a_family_and_trains_every_mask_to_its_end_unless_it_says_otherwise():
    search = make_space(search={"masks": {"family": "subset"}}).search
    assert (search.masks, search.algorithm, search.objectives) == (Subset(), Tpe(), ("val_kl_nats",))
    assert (search.proxy, search.stopping, search.confirm) == (None, None, ConfirmConfig())


@pytest.mark.parametrize(
    ("search", "read"),
    [
        ({"masks": {"family": "exactly_k", "k": 4}}, lambda s: s.masks == ExactlyK(k=4)),
        ({"algorithm": {"name": "tpe", "n_startup_trials": 9}}, lambda s: s.algorithm == Tpe(n_startup_trials=9)),
        ({"proxy": {"rungs": [4, 256]}, "stopping": "asha"}, lambda s: s.proxy == ProxyConfig(rungs=(4, 256))),
        ({"stopping": {"name": "asha", "reduction_factor": 3}}, lambda s: s.stopping == Asha(reduction_factor=3)),
        ({"objectives": ["val_kl_nats", "n_spon_params"], "confirm": {"seeds": [9]}}, lambda s: s.counts_params),
    ],
    ids=["masks", "algorithm", "proxy", "stopping", "objectives"],
)
def test_the_parts_of_a_search_are_chosen_by_tag_and_survive_being_written_and_read(search, read):
    config = make_space(search={"masks": {"family": "subset"}, **search})
    assert read(config.search)
    assert SpaceConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(("levels", "measured"), [("uniform", False), (["uniform", "fisher"], True), ({}, False)])
def test_levels_are_a_method_some_methods_or_a_level_a_site(levels, measured):
    found = PlanConfig.model_validate({"modules": ["o_proj"], "levels": levels})
    assert found.is_measured == measured
    assert PlanConfig.model_validate_json(found.model_dump_json()) == found


def test_a_measured_allocation_is_no_longer_so_once_it_has_layers():
    assert AllocationConfig.model_validate("CORNERSTONE").is_measured
    assert not AllocationConfig.model_validate("CORNERSTONE").model_copy(update={"layers": (1,)}).is_measured
    assert not AllocationConfig.model_validate("TOP-50").is_measured


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ({"name": "TOP-50"}, "TOP-50"),
        ({"name": "RANDOM-4", "seed": 2}, "RANDOM-4#2"),
        ({"name": "UNIF-ALL", "modules": TWO}, "UNIF-ALL[o_proj+down_proj]"),
        ({"name": "CORNERSTONE", "above": 0.5}, "CORNERSTONE>0.5"),
        ({"name": "mine", "layers": [1], "modules": ["o_proj"]}, "mine"),
    ],
)
def test_a_label_tells_apart_two_uses_of_a_name(given, label):
    assert AllocationConfig.model_validate(given).label == label


@pytest.mark.parametrize(
    ("given", "device", "bundle"),
    [
        ({}, "cpu", {"CPU": 1}),
        ({"gpus_per_trial": 0.5, "cpus_per_trial": 2}, "cuda", {"CPU": 2, "GPU": 0.5}),
        ({"memory_gib": 0.5}, "cpu", {"CPU": 1, "memory": 2**29}),
        ({"accelerator_type": "A100"}, "cpu", {"CPU": 1, "accelerator_type:A100": 0.001}),
    ],
)
def test_a_trial_asks_ray_for_what_it_occupies_and_is_on_cuda_exactly_with_a_gpu(given, device, bundle):
    resources = ResourcesConfig.model_validate(given)
    assert (resources.device, resources.bundle) == (device, bundle)
