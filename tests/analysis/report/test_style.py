from analysis.report.style import MODULE_COLOURS, MODULE_MARKERS
from search_spaces.sites import MODULES


def test_every_module_has_a_colour_and_a_shape_of_its_own():
    assert len(set(MODULE_COLOURS.values())) == len(set(MODULE_MARKERS.values())) == len(MODULES)
