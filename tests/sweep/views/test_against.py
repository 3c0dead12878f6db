"""Published figures beside one's own."""

from pathlib import Path

import pandas as pd
import pytest

from search_spaces.errors import SponError
from sweep.views.against import as_text, read_published

STUDY = Path(__file__).parents[3] / "docs" / "study.yaml"


def board_of(*rows: tuple[str, float]) -> pd.DataFrame:
    figures = {f"{name}{end}": 20.0 for name in ("ppl", "vs_teal_pct") for end in ("", "_low", "_high")}
    return pd.DataFrame([{"allocation": a, "sparsity": s, "plan": "p", "seed": 42, **figures} for a, s in rows])


def test_rows_of_one_allocation_and_sparsity_stand_side_by_side():
    text = as_text(board_of(("UNIF-ALL", 0.6), ("MIDDLE", 0.6), ("ATTN-ONLY", 0.5)), read_published(STUDY))
    rows = [line.split() for line in text.splitlines()[2:]]
    assert [(row[0], row[3], row[4], row[6]) for row in rows] == [
        ("UNIF-ALL", "20.00", "23.40", "-2.23"),
        ("ATTN-ONLY", "20.00", "21.75", "-2.01"),
    ]
    assert len({(row.allocation, row.sparsity) for row in read_published(STUDY).rows}) == 12


def test_nothing_in_common_is_an_error():
    with pytest.raises(SponError, match="must be in both, but none of HetanshWaghela/spon-extension is in the board"):
        as_text(board_of(("MIDDLE", 0.5)), read_published(STUDY))


@pytest.mark.parametrize(
    ("text", "says"),
    [("source: s\n", "rows: Field required"), ("a: [", "must be a YAML file"), ("rows: 3\nsource: s", "rows: Input")],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(SponError, match=says) as error:
        read_published(tmp_path / "f.yaml")
    assert "\n" not in str(error.value)
    with pytest.raises(SponError, match="No such file"):
        read_published(tmp_path / "nosuch.yaml")
