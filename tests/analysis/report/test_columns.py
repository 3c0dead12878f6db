import pandas as pd
import pytest

from analysis.report.columns import columns_for, place_sites
from search_spaces.errors import SponError
from search_spaces.sites import MODULES


def test_sites_of_a_layer_stand_side_by_side_around_it():
    placed = place_sites(pd.DataFrame({"site": ["4.down_proj", "4.o_proj", "9.down_proj"]}))
    assert placed["layer"].tolist() == [4, 4, 9]
    assert placed["x"].tolist() == pytest.approx([4.2, 3.8, 9.2])


def test_a_place_that_is_no_site_is_named():
    with pytest.raises(SponError, match="somewhere"):
        place_sites(pd.DataFrame({"site": ["somewhere"]}))


def test_many_modules_need_the_whole_width():
    few = place_sites(pd.DataFrame({"site": ["0.o_proj", "0.down_proj"]}))
    assert columns_for(few) == 2
    assert columns_for(place_sites(pd.DataFrame({"site": [f"0.{module}" for module in MODULES]}))) == 1
