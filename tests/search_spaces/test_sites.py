from dataclasses import replace

import pytest

from search_spaces.errors import SponError
from search_spaces.sites import MODULES, Site


@pytest.mark.parametrize("module", MODULES)
def test_a_site_is_read_as_it_is_written(module):
    assert Site.parse(str(Site(12, module))) == Site(12, module)


@pytest.mark.parametrize(
    "text", ["down_proj", "3", "3.", ".down_proj", "-1.down_proj", "x.q_proj", "3.mlp", "².q_proj"]
)
def test_a_text_that_is_no_site_is_refused_with_the_modules_that_exist(text):
    with pytest.raises(SponError, match=r"a site must be LAYER\.MODULE .* gate_proj") as caught:
        Site.parse(text)
    assert repr(text) in str(caught.value)


def test_check_returns_the_canonical_order_by_depth_then_by_the_forward_pass(shape):
    given = [Site(1, "q_proj"), Site(0, "down_proj"), Site(0, "o_proj"), Site(7, "k_proj"), Site(2, "v_proj")]
    ordered = ["0.o_proj", "0.down_proj", "1.q_proj", "2.v_proj", "7.k_proj"]
    assert [str(site) for site in shape.check(given, "here")] == ordered
    assert shape.check([], "here") == ()


@pytest.mark.parametrize("layer", [-1, 8, 99])
def test_a_layer_out_of_range_is_refused_with_range_value_and_place(shape, layer):
    with pytest.raises(SponError, match=rf"a layer must be in 0\.\.7 .* got {layer} \(at here\)"):
        shape.check([Site(layer, "down_proj")], "here")


def test_a_missing_site_is_refused_with_those_that_the_layer_has(shape):
    mlp_only = {site: s for site, s in shape.sites.items() if site.module in ("up_proj", "down_proj")}
    partial = replace(shape, sites=mlp_only)
    with pytest.raises(SponError, match=r"no site 2\.o_proj .* layer 2 has: up_proj, down_proj \(at here\)"):
        partial.check([Site(2, "o_proj")], "here")


def test_a_site_named_twice_is_refused(shape):
    with pytest.raises(SponError, match=r"named once, but got 1\.o_proj twice \(at here\)"):
        shape.check([Site(1, "o_proj"), Site(0, "o_proj"), Site(1, "o_proj")], "here")


@pytest.mark.parametrize(("form", "expected"), [("output_bias", 8 + 4), ("input_vector", 24 + 8)])
def test_parameters_are_counted_by_the_width_of_the_form(shape, form, expected):
    assert shape.n_params([Site(0, "down_proj"), Site(1, "k_proj")], form) == expected


def test_relative_params_are_one_for_a_bias_on_every_down_proj(shape):
    n_params = shape.n_params([Site(layer, "down_proj") for layer in range(8)], "output_bias")
    assert shape.relative_params(n_params) == 1.0
