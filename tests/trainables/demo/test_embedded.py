import bz2
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from safetensors import SafetensorError
from transformers import AutoTokenizer

from search_spaces.config import SPLITS
from search_spaces.errors import NodeError
from trainables.cache import cache_root, cached
from trainables.demo import embedded
from trainables.demo.embedded import WheelFile, documents, model_dir, split_of


def _dump(titles: list[str]) -> bytes:
    page = "<page><title>{0}</title><ns>0</ns><revision><text>{1}</text></revision></page>"
    pages = "".join(page.format(title, f"{title} is a thing. " * 60) for title in titles)
    return bz2.compress(f'<mediawiki xmlns="urn:wiki">{pages}</mediawiki>'.encode())


@pytest.fixture
def small_text(spon_cache: Path, add_wheel: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> WheelFile:
    """Twenty articles in place of the real sample."""
    sha256 = add_wheel("wiki", "wiki/dump.bz2", _dump([f"Title {i}" for i in range(20)]))
    text = WheelFile("wiki==1.0", "wiki/dump.bz2", sha256)
    monkeypatch.setattr(embedded, "TEXT", text)
    return text


def test_titles_are_dealt_out_by_half_and_quarters() -> None:
    counts = Counter(split_of(f"title {i}") for i in range(4000))
    shares = [counts[split] / 4000 for split in SPLITS]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.03)


def test_every_article_is_in_its_split(small_text: WheelFile) -> None:
    rows = documents()
    assert {title: split for split in SPLITS for title in rows[split]["title"]} == {
        f"Title {i}": split_of(f"Title {i}") for i in range(20)
    }
    assert not [file for file in cache_root().rglob("*") if file.suffix in (".bz2", ".whl")]


def test_the_text_is_made_while_the_model_is(spon_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[list[str]] = []

    class Other(nullcontext):
        def __init__(self, command: list[str], **options: object) -> None:
            super().__init__()
            begun.append(command)

    monkeypatch.setattr(embedded.subprocess, "Popen", Other)
    with embedded.text_ahead():
        pass
    assert [command[-1] for command in begun] == ["from trainables.demo.embedded import documents; documents()"]
    (spon_cache / "documents" / embedded.documents_key()).mkdir(parents=True)
    with embedded.text_ahead():
        pass
    assert len(begun) == 1


@pytest.mark.usefixtures("spon_cache")
def test_a_full_disk_under_the_converted_model_is_the_nodes_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model(MagicMock):
        def save_pretrained(self, directory: Path) -> None:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.AutoModelForCausalLM", MagicMock(from_config=lambda *_, **__: Model()))
    with pytest.raises(NodeError, match="the disk must have room for the output"):
        cached("models", "m", lambda directory: embedded._convert(directory / "model.gguf", directory))


@pytest.mark.model
@pytest.mark.usefixtures("user_cache")
def test_the_model_directory_holds_no_gguf() -> None:
    files = {path.name for path in model_dir().iterdir()}
    assert "model.safetensors" in files
    assert not any("gguf" in name for name in files)


@pytest.mark.model
@pytest.mark.usefixtures("user_cache")
def test_the_model_does_not_tell_whether_its_converter_was_offline() -> None:
    assert "local_files_only" not in (model_dir() / "tokenizer_config.json").read_text()


@pytest.mark.model
@pytest.mark.usefixtures("user_cache")
def test_the_tokenizer_gives_text_back() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir())
    text = "Hello world 123\n\nThe  cat's"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.model
@pytest.mark.usefixtures("user_cache")
def test_the_splits_share_no_title() -> None:
    titles = [title for split in SPLITS for title in documents()[split]["title"]]
    assert len(titles) > 100
    assert len(set(titles)) == len(titles)
