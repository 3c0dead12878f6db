"""Any space and mask there and back again."""

from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial
from pydantic import TypeAdapter

from search_spaces.load import parse_space
from search_spaces.masks import ExactlyK, LayerModuleBits, MaskFamily, ModulePerLayer, Subset, Window
from search_spaces.resolve import Fingerprints, resolve_space
from search_spaces.sites import MODULES, Site, site_order
from search_spaces.trial import TrialConfig
from tests.search_spaces.conftest import make_shape

PERCENTS = st.integers(1, 100)
MODULE_LISTS = st.lists(st.sampled_from(MODULES), min_size=1, unique=True)
NAMES = st.one_of(
    st.sampled_from(["UNIF-ALL", "ATTN-ONLY", "HYBRID-OD", "HYBRID-QD", "ALL-SITES", "ADAPTIVE", "BASELINE-TEAL"]),
    st.builds("{}-{}".format, st.sampled_from(["TOP", "BOTTOM", "MIDDLE"]), PERCENTS),
    st.builds("ALTERNATING-{}".format, st.integers(1, 50)),
)
few = settings(max_examples=30, deadline=None, database=None)


@st.composite
def spaces(draw):
    """A raw space of eight layers, with an allocation of its own beside a named one."""
    layers = st.lists(st.integers(0, 7), min_size=1, unique=True)
    sites = st.lists(st.builds("{}.{}".format, st.integers(0, 7), st.sampled_from(MODULES)), min_size=1, unique=True)
    own = {
        "name": "own",
        **draw(
            st.one_of(
                st.fixed_dictionaries({"layers": layers, "modules": MODULE_LISTS}),
                st.fixed_dictionaries({"sites": sites}),
            )
        ),
    }
    return {
        "name": "s",
        "model": {"dtype": draw(st.sampled_from(["float32", "bfloat16"]))},
        "plan": {
            "modules": draw(st.sampled_from(["all", "matched"])),
            "rule": draw(st.sampled_from(["topk", "threshold"])),
            "tokens": draw(st.sampled_from(["all", "second_half"])),
        },
        "sparsity": draw(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=2, unique=True)),
        "allocations": [draw(NAMES), own],
        "seeds": draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=2, unique=True)),
        "training": {
            "form": draw(st.sampled_from(["output_bias", "input_vector"])),
            "lr": draw(st.floats(1e-8, 1.0)),
            "epochs": draw(st.integers(1, 10**6)),
        },
    }


@few
@given(raw=spaces())
def test_a_trial_is_the_same_after_json_in_its_config_identity_and_name(raw):
    space = parse_space(raw, "here")
    kept = space.model_dump(mode="json", exclude={"training": {"seed"}})  # as a sweep's folder keeps it
    assert parse_space(kept, "there") == space
    trials = resolve_space(space, make_shape(8), Fingerprints("m", "c"))
    assert trials
    for trial in trials:
        read = TrialConfig.model_validate_json(trial.model_dump_json())
        assert (read, read.identity, read.name) == (trial, trial.identity, trial.name)


@st.composite
def masks(draw):
    """A family, and one of its masks of eight layers, made in another way than the family does."""
    modules = tuple(sorted(draw(MODULE_LISTS), key=MODULES.index))
    layers = draw(st.sets(st.integers(0, 7)))
    sites = [Site(layer, module) for layer in range(8) for module in modules]
    some = draw(st.sets(st.sampled_from(sites)))
    first, length = draw(st.integers(0, 7)), draw(st.integers(1, 8))
    window = range(first, min(8, first + length))
    one_a_layer = {Site(layer, draw(st.sampled_from(modules))) for layer in layers}
    whole = {site for site in sites if site.layer in layers}
    return draw(
        st.sampled_from(
            [
                (Subset(modules=modules), whole),
                (LayerModuleBits(modules=modules), some),
                (ExactlyK(modules=modules, k=len(layers)), whole),
                (ExactlyK(modules=modules, k=len(some), per="site"), some),
                (ModulePerLayer(modules=modules), one_a_layer),
                (Window(modules=modules), {site for site in sites if site.layer in window}),
            ]
        )
    )


@few
@given(case=masks())
def test_any_mask_of_a_family_is_suggested_by_its_parameters(case):
    (family, chosen), shape = case, make_shape(8)
    mask = tuple(sorted(chosen, key=site_order))
    assert family.suggest(FixedTrial(family.params_of(mask, shape)), shape) == mask
    adapter = TypeAdapter(MaskFamily)
    assert adapter.validate_json(adapter.dump_json(family)) == family
