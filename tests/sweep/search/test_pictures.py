from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import AxesImage

from sweep.search.pictures import (
    chosen_figure,
    expected_best,
    mask_figure,
    pareto_figure,
    progress_figure,
    proxy_figure,
    write_pictures,
)


@pytest.fixture
def masks() -> pd.DataFrame:
    """Three masks of a model of four layers; the last is the best."""
    sites = [("0.down_proj", "1.down_proj"), ("1.o_proj", "3.down_proj"), ("1.o_proj", "2.o_proj")]
    return pd.DataFrame(
        {
            "name": ["a", "b", "c"],
            "sites": sites,
            "n_spon_params": 16,
            "kl_nats": [0.25, 0.5, 0.125],
            "blocks": [4, 4, 8],
        }
    )


@pytest.fixture
def trained() -> pd.DataFrame:
    """Allocations of the space and two searched masks."""
    rows = [
        ("TOP-25", "named", 8, 0.4, 20.0, np.nan),
        ("TOP-50", "named", 16, 0.3, 18.0, 0.35),
        ("UNIF-ALL", "named", 32, 0.3, 17.0, np.nan),
        ("b", "searched", 16, 0.2, 19.0, 0.3),
        ("c", "searched", 24, 0.25, 18.5, 0.2),
    ]
    columns = ["name", "kind", "n_spon_params", "kl_nats", "ppl", "proxy_kl_nats"]
    return pd.DataFrame(rows, columns=columns).assign(sites=[("1.down_proj",)] * len(rows))


def lines(axis) -> dict:
    return {line.get_label(): line for line in axis.lines}


def heat_maps(figure) -> dict:
    images = {axis.get_title(): axis.findobj(AxesImage)[0] for axis in figure.axes}
    return {module: np.asarray(image.get_array(), dtype=int).tolist() for module, image in images.items()}


@pytest.mark.parametrize("values", [[3.0], [0.7, 0.1, 0.4, 0.1, 0.9], [-1.0, 2.0, 0.5, 8.0, 8.0, 3.0, 0.25]])
def test_the_expected_best_is_the_mean_over_all_subsets(values: list[float]) -> None:
    sizes = range(1, len(values) + 1)
    brute_force = [np.mean([min(subset) for subset in combinations(values, size)]) for size in sizes]
    assert expected_best(np.array(values)) == pytest.approx(brute_force)


def test_the_front_is_the_best_score_of_as_few_parameters_as_far_as_the_largest_mask(trained: pd.DataFrame) -> None:
    kl, ppl = (dict(lines(axis)["Pareto front"].get_xydata()) for axis in pareto_figure(trained).axes)
    assert kl == {8: 0.4, 16: 0.2, 24: 0.2, 32: 0.2}
    assert ppl == {8: 20.0, 16: 18.0, 24: 18.0, 32: 17.0}


def test_a_named_allocation_is_a_series_of_its_own_in_both_panels(trained: pd.DataFrame) -> None:
    for axis, figures in zip(pareto_figure(trained).axes, ([8, 0.4], [8, 20.0]), strict=True):
        assert lines(axis)["TOP-25"].get_xydata().tolist() == [figures]
        assert len(lines(axis)["searched"].get_xydata()) == 2


def test_a_heat_map_is_filled_at_the_sites_of_each_mask_with_the_best_on_top(masks: pd.DataFrame) -> None:
    assert heat_maps(mask_figure(masks, num_layers=4)) == {
        "o_proj": [[0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]],
        "down_proj": [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]],
    }


def test_a_heat_map_keeps_the_best_and_names_their_scores(masks: pd.DataFrame) -> None:
    figure = mask_figure(masks, num_layers=4, most=1)
    assert heat_maps(figure)["o_proj"] == [[0, 1, 1, 0]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0.12500"]


def test_layers_are_counted_among_the_best_and_among_all(masks: pd.DataFrame) -> None:
    many = pd.concat([masks.assign(kl_nats=masks["kl_nats"] + i) for i in range(4)])  # the best five: c a b, c a
    axis = chosen_figure(many, num_layers=4, share=0.1).axes[0]
    assert [bar.get_height() for bar in axis.containers[0]] == pytest.approx([0, 3 / 5, 2 / 5, 0])
    assert axis.patches[-1].get_data().values == pytest.approx([0, 2 / 3, 1 / 3, 0])


def test_progress_is_the_best_score_after_so_many_blocks(masks: pd.DataFrame) -> None:
    (search,) = progress_figure(masks, pd.DataFrame()).axes[0].lines
    assert search.get_xydata().tolist() == [[4, 0.25], [8, 0.25], [16, 0.125]]


def test_random_masks_spend_their_mean_number_of_blocks(masks: pd.DataFrame) -> None:
    curve = lines(progress_figure(masks, masks.head(2)).axes[0])["random masks, expected"]
    assert curve.get_xydata().tolist() == [[4, 0.375], [8, 0.25]]


def test_the_proxy_is_compared_where_a_mask_has_both_scores(trained: pd.DataFrame) -> None:
    drawn = lines(proxy_figure(trained).axes[0])
    assert set(drawn) == {"searched", "TOP-50"}
    assert drawn["TOP-50"].get_xydata().tolist() == [[0.3, 0.35]]
    assert drawn["searched"].get_xydata().tolist() == [[0.2, 0.3], [0.25, 0.2]]


def test_every_picture_with_data_is_written(masks: pd.DataFrame, trained: pd.DataFrame, tmp_path: Path) -> None:
    files = write_pictures(tmp_path, masks, masks, trained, num_layers=4)
    assert files == [tmp_path / f"search_{name}.png" for name in ("pareto", "masks", "layers", "progress", "proxy")]
    assert all(file.stat().st_size for file in files)
    unscored, nothing = trained.assign(proxy_kl_nats=np.nan), pd.DataFrame()
    assert write_pictures(tmp_path, masks.head(0), nothing, unscored, num_layers=4) == files[:1]
    assert write_pictures(tmp_path, nothing, nothing, nothing, num_layers=4) == []
