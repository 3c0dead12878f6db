import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from search_spaces.config import SPLITS, CorpusConfig, Split
from search_spaces.errors import SponError
from trainables.text import corpus as corpus_module
from trainables.text import documents as documents_module
from trainables.text.corpus import corpus_fingerprint, load_blocks, prepare_corpus

Files = dict[Split, tuple[str, ...]]
Tokenizing = Callable[[], PreTrainedTokenizerFast]

pytestmark = pytest.mark.usefixtures("spon_cache")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizing:
    """One token a word: the word ``7`` is token 7, any other is token 0. BOS exists, and must never be added."""
    vocabulary = {"<unk>": 0, **{str(i): i for i in range(1, 1000)}, "<s>": 1000}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return lambda: PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, bos_token="<s>", add_bos_token=True
    )


def _lines(first: int, lengths: list[int]) -> str:
    """One line for each length, of consecutive numbers from ``first``."""
    lines = []
    for length in lengths:
        lines.append(" ".join(str(first + i) for i in range(length)))
        first += length
    return "\n\n".join(lines)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Documents of 7 tokens: 20 for calibration (1..140), 10 each for validation (201..) and test (401..)."""
    named: Files = {}
    for split, first, count in (("calibration", 1, 20), ("validation", 201, 10), ("test", 401, 10)):
        path = tmp_path / f"{split}.txt"
        path.write_text(_lines(first, [7] * count))
        named[split] = (str(path),)  # type: ignore[index]
    return named


def _config(files: Files, **changes: Any) -> CorpusConfig:
    return CorpusConfig.model_validate({"source": "files", "files": files, "block_size": 8, **changes})


def _few(count: int) -> dict[str, int]:
    return dict.fromkeys(SPLITS, count)


def _study_blocks(documents: list[str], tokenizer: Any, num_samples: int, block_size: int) -> list[list[int]]:
    """The seed study's loop, written out."""
    all_tokens: list[int] = []
    for text in documents:
        if not text.strip():
            continue
        all_tokens.extend(tokenizer()(text.strip(), add_special_tokens=False)["input_ids"])
        if len(all_tokens) >= num_samples * block_size + block_size:
            break
    blocks = []
    for i in range(0, len(all_tokens) - block_size, block_size):
        blocks.append(all_tokens[i : i + block_size])
        if len(blocks) == num_samples:
            break
    return blocks


@pytest.mark.parametrize("count", [1, 3, 16, 17, 100])
def test_first_gives_the_blocks_of_the_study(files: Files, tokenizer: Tokenizing, count: int) -> None:
    prepared = prepare_corpus(_config(files, blocks=_few(count)), tokenizer, "words")
    documents = Path(files["calibration"][0]).read_text().split("\n")
    expected = _study_blocks(documents, tokenizer, count, 8)
    assert load_blocks(prepared, "calibration").tokens.tolist() == expected


def test_a_block_that_ends_with_the_text_is_left_out(files: Files, tokenizer: Tokenizing, tmp_path: Path) -> None:
    path = tmp_path / "exact.txt"
    path.write_text(_lines(1, [24]))
    prepared = prepare_corpus(_config({**files, "calibration": (str(path),)}), tokenizer, "words")
    assert load_blocks(prepared, "calibration").tokens.tolist() == [list(range(1, 9)), list(range(9, 17))]


def test_each_token_knows_its_document(files: Files, tokenizer: Tokenizing) -> None:
    blocks = load_blocks(prepare_corpus(_config(files), tokenizer, "words"), "calibration")
    assert torch.equal(blocks.documents, (blocks.tokens - 1) // 7)
    assert blocks.tokens.dtype == blocks.documents.dtype == torch.int64


def test_first_stops_tokenising_when_it_has_enough(
    files: Files, tokenizer: Tokenizing, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spy(batch: list[str], **options: Any) -> Any:
        seen.extend(batch)
        return tokenizer()(batch, **options)

    monkeypatch.setattr(corpus_module, "_BATCH", 2)
    prepare_corpus(_config(files, blocks=_few(1)), lambda: spy, "words")  # type: ignore[arg-type,return-value]
    assert len(seen) == 3 * 4  # 16 tokens are enough, so three documents of 7, of which the third brings its batch


def test_the_batch_does_not_matter(files: Files, tokenizer: Tokenizing, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = corpus_fingerprint(prepare_corpus(_config(files), tokenizer, "one batch"))
    monkeypatch.setattr(corpus_module, "_BATCH", 3)
    assert corpus_fingerprint(prepare_corpus(_config(files), tokenizer, "small batches")) == whole


def test_spread_goes_from_the_first_block_to_the_last(files: Files, tokenizer: Tokenizing) -> None:
    prepared = prepare_corpus(_config(files, blocks=_few(3), pick="spread"), tokenizer, "words")
    assert sorted(load_blocks(prepared, "calibration").tokens[:, 0].tolist()) == [1, 65, 129]


@pytest.mark.parametrize("few", [4, 8, 32])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_every_beginning_of_spread_blocks_is_spread_and_so_is_every_second_or_third(few: int, every: int) -> None:
    starts = sorted(corpus_module._pick(range(0, 1000), 128, "spread")[::every][:few])
    gaps = [after - before for before, after in itertools.pairwise([0, *starts, 999])]
    assert max(gaps) < 2.7 * 1000 / few


def test_spread_takes_no_block_twice() -> None:
    for wanted in range(1, 18):
        picked = corpus_module._pick(range(0, 17 * 8, 8), wanted, "spread")
        assert len(set(picked)) == len(picked) == wanted


def test_fewer_blocks_than_asked_for_are_recorded(
    files: Files, tokenizer: Tokenizing, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = prepare_corpus(_config(files, blocks=_few(9)), tokenizer, "words")
    meta = json.loads((prepared / "meta.json").read_text())
    assert meta["splits"]["test"] == {"n_blocks": 8, "n_documents": 10, "n_tokens": 64}
    assert "the corpus gives 8 test blocks of the 9 asked for" in capsys.readouterr().err


def test_splits_share_no_document(files: Files, tokenizer: Tokenizing, tmp_path: Path) -> None:
    paragraph = "the same paragraph " * 12
    for split in ("calibration", "test"):
        path = Path(files[split][0])
        path.write_text(f"{split} alone\n  {paragraph}\n{path.read_text()}")
    with pytest.raises(SponError, match="calibration and test have 'the same paragraph"):
        prepare_corpus(_config(files), tokenizer, "words")


def test_splits_share_no_file(files: Files, tokenizer: Tokenizing, tmp_path: Path) -> None:
    copied = tmp_path / "copied.txt"
    copied.write_text(Path(files["calibration"][0]).read_text())
    both = {**files, "test": (*files["test"], str(copied))}
    message = (
        rf"calibration has {files['calibration'][0]} and test has {copied} with the same content \(at corpus\.files"
    )
    with pytest.raises(SponError, match=message):
        prepare_corpus(_config(both), tokenizer, "words")


def test_a_split_may_name_a_file_twice(files: Files, tokenizer: Tokenizing, tmp_path: Path) -> None:
    again = tmp_path / "again.txt"
    again.write_text(Path(files["test"][0]).read_text())
    assert prepare_corpus(_config({**files, "test": (*files["test"], str(again))}), tokenizer, "words").is_dir()


def test_splits_share_no_text_of_short_rows(files: Files, tokenizer: Tokenizing) -> None:
    Path(files["test"][0]).write_text(Path(files["calibration"][0]).read_text() + "\n\n1 2 3")
    with pytest.raises(SponError, match=r"calibration and test have 17 blocks of 17 in common \(at corpus\)"):
        prepare_corpus(_config(files), tokenizer, "words")


def test_a_shared_block_among_many_is_no_fault(files: Files, tokenizer: Tokenizing) -> None:
    shared, alone = range(901, 909), range(501, 601)
    for split, rest in (("calibration", _lines(1, [100])), ("test", " ".join(map(str, alone)))):
        Path(files[split][0]).write_text(" ".join(map(str, shared)) + f"\n{rest}")
    assert prepare_corpus(_config(files), tokenizer, "words").is_dir()


def test_blocks_of_few_distinct_tokens_may_recur(files: Files, tokenizer: Tokenizing) -> None:
    for split, last in (("calibration", 1), ("test", 2)):
        Path(files[split][0]).write_text(" ".join(["7"] * 40 + [str(last)]))
    assert prepare_corpus(_config(files), tokenizer, "words").is_dir()


def test_a_shared_document_that_no_block_touches_is_no_fault(files: Files, tokenizer: Tokenizing) -> None:
    for split in SPLITS:
        path = Path(files[split][0])
        lines = path.read_text().split("\n\n")
        path.write_text("\n".join([*lines[:5], "the same paragraph " * 12, *lines[5:]]))
    ends = _config(files, blocks=_few(2), pick="spread")  # the first block and the last
    assert prepare_corpus(ends, tokenizer, "words").is_dir()


def test_the_fingerprint_is_of_the_tokens_and_documents(wiki: Files, tokenizer: Tokenizing, tmp_path: Path) -> None:
    def fingerprint(files: Files, document: str = "heading") -> str:
        return corpus_fingerprint(prepare_corpus(_config(files, document=document), tokenizer, "words"))

    before, moved = fingerprint(wiki), tmp_path / "moved.md"
    moved.write_text(Path(wiki["test"][0]).read_text())
    assert fingerprint({**wiki, "test": (str(moved),)}) == before != fingerprint(wiki, "row")
    moved.write_text("999\n" + moved.read_text())
    assert fingerprint({**wiki, "test": (str(moved),)}) != before


def test_a_prepared_corpus_is_not_built_again(files: Files, tokenizer: Tokenizing) -> None:
    prepared = prepare_corpus(_config(files), tokenizer, "words")
    assert prepare_corpus(_config(files), None, "words") == prepared  # type: ignore[arg-type]
    assert prepare_corpus(_config(files), tokenizer, "other words") != prepared


def test_parquet_is_read(files: Files, tokenizer: Tokenizing, tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    path.write_bytes(_parquet(text=[" ".join(["5"] * 20), None, "  "], id=[1, 2, 3]))
    prepared = prepare_corpus(_config({**files, "test": (str(path),)}), tokenizer, "words")
    assert load_blocks(prepared, "test").tokens.tolist() == [[5] * 8] * 2


def _parquet(**columns: list[object]) -> bytes:
    content = io.BytesIO()
    Dataset.from_dict(columns).to_parquet(content)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "changes", "says"),
    [
        ("few.txt", b"1 2 3", {}, r"at least one block of 8 tokens .* but test has 3 tokens \(at corpus\)"),
        ("a.pdf", b"1 2 3", {}, r"must all be \.txt or .* but got \['.*a\.pdf'\]"),
        ("a.txt", b"\xff\xfe\x00not text\n" * 20, {}, r"corpus files must be text, but .*a\.txt"),
        ("a.parquet", b"\xff\xfe\x00no parquet\n" * 20, {}, r"corpus files must be parquet, but .*a\.parquet"),
        ("a.parquet", _parquet(text=["1"]), {"document": "paragraph"}, r"only for text files, but got .*a\.parquet"),
        ("a.parquet", _parquet(text=[1, 2]), {}, "must hold text, but 'text' holds int64"),
        ("a.txt", b"1 2 3", {"text_column": "body"}, "text_column must be one of text, but got 'body'"),
        ("no/a.txt", None, {}, r"must be readable, but No such file or directory \(at .*/no/a\.txt\)"),
    ],
)
def test_text_that_cannot_be_used_is_one_line(
    files: Files, tokenizer: Tokenizing, tmp_path: Path, name: str, content: bytes | None, changes: Any, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SponError, match=says) as caught:
        prepare_corpus(_config({**files, "test": (str(tmp_path / name),)}, **changes), tokenizer, "words")
    assert "\n" not in str(caught.value)


def test_a_document_may_be_a_whole_file(files: Files, tokenizer: Tokenizing) -> None:
    prepared = prepare_corpus(_config(files, document="file"), tokenizer, "words")
    assert load_blocks(prepared, "calibration").documents.max() == 0


def test_a_document_may_be_a_paragraph(files: Files, tokenizer: Tokenizing, tmp_path: Path) -> None:
    path = tmp_path / "test.txt"
    path.write_text("1 2 3\n4 5 6\n\n7 8 9 10 11 12")
    prepared = prepare_corpus(_config({**files, "test": (str(path),)}, document="paragraph"), tokenizer, "words")
    assert load_blocks(prepared, "test").documents.tolist() == [[0] * 6 + [1] * 2]


def _articles(first: int, count: int) -> str:
    """Articles as WikiText has them: three numbers under a level-one heading, three under one of level two."""
    return "\n".join(
        f" = Title {n} = \n \n {n} {n} {n} \n \n = = Part = = \n \n {n} {n} {n} \n "
        for n in range(first, first + count)
    )


@pytest.fixture
def wiki(tmp_path: Path) -> Files:
    """20 articles for calibration (1..20), 10 each for validation (31..) and test (51..)."""
    named: Files = {}
    for split, first, count in (("calibration", 1, 20), ("validation", 31, 10), ("test", 51, 10)):
        path = tmp_path / f"{split}.wiki.txt"
        path.write_text(_articles(first, count))
        named[split] = (str(path),)  # type: ignore[index]
    return named


def _prepared(files: Files, tokenizer: Tokenizing, document: str) -> dict[Split, Any]:
    prepared = prepare_corpus(_config(files, document=document), tokenizer, "words")
    return {split: load_blocks(prepared, split) for split in SPLITS}


def _marks(blocks: Any) -> set[tuple[int, int]]:
    """Which number, of those that mark an article, is in which document."""
    pairs = zip(blocks.documents.flatten().tolist(), blocks.tokens.flatten().tolist(), strict=True)
    return {(document, token) for document, token in pairs if token}


def test_articles_are_told_apart_by_their_headings(wiki: Files, tokenizer: Tokenizing) -> None:
    rows = Path(wiki["calibration"][0]).read_text().splitlines()
    assert len(rows) == 8 * 20
    marks = _marks(_prepared(wiki, tokenizer, "heading")["calibration"])
    assert marks == {(n - 1, n) for n in range(1, 21)}


def test_articles_have_the_tokens_of_their_rows(wiki: Files, tokenizer: Tokenizing) -> None:
    rows, articles = (_prepared(wiki, tokenizer, document) for document in ("row", "heading"))
    for split in SPLITS:
        assert torch.equal(articles[split].tokens, rows[split].tokens)
        assert len(articles[split].documents.unique()) < len(rows[split].documents.unique())


def test_text_before_the_first_heading_is_a_document(wiki: Files, tokenizer: Tokenizing) -> None:
    path = Path(wiki["test"][0])
    path.write_text("99 99\n99\n" + path.read_text())
    marks = _marks(_prepared(wiki, tokenizer, "heading")["test"])
    assert {(0, 99), (1, 51), (2, 52)} <= marks


def test_every_tenth_article_validates_when_no_split_does(wiki: Files, tokenizer: Tokenizing) -> None:
    without: Files = {"calibration": wiki["calibration"], "test": wiki["test"]}
    blocks = _prepared(without, tokenizer, "heading")
    assert {token for _, token in _marks(blocks["validation"])} == {10, 20}
    assert {token for _, token in _marks(blocks["calibration"])} == set(range(1, 20)) - {10}


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_without_a_heading_is_one_line(wiki: Files, tokenizer: Tokenizing, split: Split) -> None:
    Path(wiki[split][0]).write_text(" = = Part = = \n = = = Piece = = = \n 1 = 2 = 3 \n" * 9)
    with pytest.raises(SponError, match=rf"but {split} has none \(at corpus\.document\)") as caught:
        _prepared(wiki, tokenizer, "heading")
    assert "\n" not in str(caught.value)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A hub that has one dataset at one commit; call it to have its commit or its loading raise instead."""
    texts = {split: [_lines(first, [20])] for split, first in (("train", 1), ("validation", 101), ("test", 201))}

    def set_up(commit: str | Exception = "c0ffee", load: Exception | None = None, copy: str = "c0ffee") -> None:
        class Api:
            def dataset_info(self, *args: object, **options: object) -> Any:
                if isinstance(commit, Exception):
                    raise commit
                return type("Info", (), {"sha": commit})

        def load_dataset(path: str, name: str | None, revision: str | None, split: list[str]) -> list[Any]:
            if load:
                raise load
            for one in split:
                Dataset.from_dict({"text": texts[one]}).save_to_disk(tmp_path / copy / one)
            return [load_from_disk(tmp_path / copy / one) for one in split]

        monkeypatch.setattr(documents_module, "HfApi", Api)
        monkeypatch.setattr(documents_module, "load_dataset", load_dataset)

    return set_up


def _hub_config(**changes: Any) -> CorpusConfig:
    return CorpusConfig.model_validate({"source": "some/text", "name": "raw", "block_size": 8, **changes})


def test_a_hub_dataset_is_read(hub: Callable[..., None], tokenizer: Tokenizing) -> None:
    hub()
    blocks = load_blocks(prepare_corpus(_hub_config(), tokenizer, "words"), "calibration")
    assert blocks.tokens.tolist() == [list(range(1, 9)), list(range(9, 17))]


def test_another_commit_from_the_cache_is_refused(hub: Callable[..., None], tokenizer: Tokenizing) -> None:
    hub(commit="c0ffee", copy="0ld")
    with pytest.raises(SponError, match="must be of commit c0ffee, but the cache has another"):
        prepare_corpus(_hub_config(), tokenizer, "words")


def test_offline_any_cached_copy_serves_without_a_revision(hub: Callable[..., None], tokenizer: Tokenizing) -> None:
    hub(commit=OfflineModeIsEnabled("offline"))
    assert prepare_corpus(_hub_config(), tokenizer, "words").is_dir()


def test_offline_the_cached_copy_must_be_of_the_revision(hub: Callable[..., None], tokenizer: Tokenizing) -> None:
    hub(commit=OfflineModeIsEnabled("offline"))
    with pytest.raises(SponError, match="must be of commit abc123"):
        prepare_corpus(_hub_config(revision="abc123"), tokenizer, "words")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (httpx.ConnectError("Name not known"), "cannot reach the hub for .*Name not known .*source: files"),
        (ConnectionError("Couldn't reach 'some/text'"), "cannot reach the hub .*HF_HUB_OFFLINE=1"),
        (DatasetNotFoundError("Dataset 'some/text' is a gated dataset"), "cannot read .*gated .*hf auth login"),
        (
            ValueError("BuilderConfig 'raw' not found.\nAvailable: ['a']"),
            r"cannot read .*not found\. Available: \['a'\]",
        ),
        (ValueError("Unknown split \"x\". Should be one of ['train']."), r"cannot read .*one of \['train'\]"),
        (RuntimeError("Dataset scripts are no longer supported"), "cannot read .*no longer supported"),
    ],
)
def test_a_hub_fault_is_one_line_that_says_what_was_asked_for(
    hub: Callable[..., None], tokenizer: Tokenizing, fault: Exception, says: str
) -> None:
    hub(load=fault)
    with pytest.raises(SponError, match=says) as caught:
        prepare_corpus(_hub_config(), tokenizer, "words")
    assert "dataset some/text, config raw, splits train, validation, test" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_local_path_is_no_hub_dataset(tokenizer: Tokenizing, tmp_path: Path) -> None:
    with pytest.raises(SponError, match="local text must be given as source: files"):
        prepare_corpus(CorpusConfig(source=str(tmp_path)), tokenizer, "words")
