from pathlib import Path

import pytest

from search_spaces.config import BlockCounts
from search_spaces.errors import SponError
from search_spaces.files import read_config, write_whole


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "counts.json"
    file.write_text(BlockCounts().model_dump_json())
    assert read_config(BlockCounts, file, "counts must be counts") == BlockCounts()


@pytest.mark.parametrize(
    ("text", "said"), [('{"test": "x"}', "test: "), ('{"nosuch": 1}', "nosuch: "), ("no JSON", "it: Invalid JSON")]
)
def test_a_fault_is_the_rule_the_place_and_the_file(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "counts.json"
    file.write_text(text)
    with pytest.raises(SponError) as error:
        read_config(BlockCounts, file, "counts must be counts")
    assert str(error.value).startswith(f"counts must be counts, but {said}")
    assert str(error.value).endswith(f"(at {file})")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(SponError, match="counts must be counts, but No such file"):
        read_config(BlockCounts, tmp_path / "nosuch.json", "counts must be counts")


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_whole(file, "longer than what follows")
    write_whole(file, "short")
    assert file.read_text() == "short"
    assert list(tmp_path.iterdir()) == [file]
