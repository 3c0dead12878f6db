"""Documents of each split, from the embedded text, local files or the hub.

A document is a list of rows. It has one row, unless rows are grouped into articles by their headings.

There is no fallback: a text that is missing, gated or out of reach is an error.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    XetDownloadError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the HTTP library that this hub uses

from search_spaces.config import EMBEDDED, SPLITS, CorpusConfig, Split
from search_spaces.errors import NodeError, SponError
from trainables.demo import embedded

_BATCH = 256  # rows read at once
_HUB_TIMEOUT_S = 10.0
_FIND_IT = (
    "check the name and the revision; if private or gated, accept its terms and log in: hf auth login, or HF_TOKEN"
)
_REACH_IT = (
    "go online, set HF_HUB_OFFLINE=1 to use a copy in the Hugging Face cache, "
    "or put the text in local files and use source: files"
)
_SAMPLE_BY = {"row": "line", "heading": "line", "paragraph": "paragraph", "file": "document"}
_COMMIT = re.compile("[0-9a-f]{40}")
_LEVEL_ONE = re.compile(r"= (?!= ).*(?<! =) =")
_FORMATS = {".txt": "text", ".text": "text", ".md": "text", ".parquet": "parquet"}


def documents_of(corpus: CorpusConfig, scratch: Path) -> dict[Split, Iterator[list[str]]]:
    """The documents of each split, with rows stripped and empty rows left out.

    Raises:
        SponError: if the text cannot be read; on iteration, if a split has no heading where headings are required.
    """
    rows = _load(corpus, scratch)
    documents = {split: _documents(rows[split], corpus, split) for split in SPLITS if split in rows}
    if "validation" not in documents:
        again, rest = _documents(rows["calibration"], corpus, "calibration"), documents["calibration"]
        documents["validation"] = (document for index, document in enumerate(again) if index % 10 == 9)
        documents["calibration"] = (document for index, document in enumerate(rest) if index % 10 != 9)
    return documents


def _documents(rows: Dataset, corpus: CorpusConfig, split: Split) -> Iterator[list[str]]:
    texts = _texts(rows, corpus.text_column, split)
    return _articles(texts, split) if corpus.document == "heading" else ([text] for text in texts)


def _articles(rows: Iterable[str], split: Split) -> Iterator[list[str]]:
    """Rows from each level-one heading to the next; those before the first are a document of their own.

    Raises:
        SponError: if there is no such heading.
    """
    article: list[str] = []
    headed = False
    for row in rows:
        if _LEVEL_ONE.fullmatch(row):
            if article:
                yield article
            article, headed = [], True
        article.append(row)
    if not headed:
        raise SponError(
            f"a corpus of articles must have headings such as '= Title =', but {split} has none (at corpus.document)"
        )
    yield article


def _texts(rows: Dataset, column: str, split: Split) -> Iterator[str]:
    if column not in rows.column_names:
        have = ", ".join(rows.column_names)
        raise SponError(f"text_column must be one of {have}, but got {column!r} (at corpus, {split})")
    if rows.features[column].dtype not in ("string", "large_string"):
        raise SponError(f"text_column must hold text, but {column!r} holds {rows.features[column].dtype} (at corpus)")
    for batch in rows.select_columns(column).iter(batch_size=_BATCH):
        yield from filter(None, ((text or "").strip() for text in batch[column]))


def _load(corpus: CorpusConfig, scratch: Path) -> dict[Split, Dataset]:
    if corpus.source == EMBEDDED:
        rows = embedded.documents()
        return {split: rows[split] for split in SPLITS}
    if corpus.source == "files":
        return {split: _load_files(corpus, split, scratch) for split in corpus.files}
    return _load_from_hub(corpus)


def _load_files(corpus: CorpusConfig, split: Split, scratch: Path) -> Dataset:
    files = list(corpus.files[split])
    formats = {_FORMATS.get(Path(name).suffix.lower()) for name in files}
    kind = formats.pop()
    if kind is None or formats:
        raise SponError(f"the files of a split must all be {' or '.join(_FORMATS)}, but got {files} (at corpus.files)")
    if kind == "parquet" and corpus.document in ("paragraph", "file"):
        raise SponError(
            f"document may be {corpus.document} only for text files, but got {', '.join(files)} (at corpus.document)"
        )
    try:  # not `load_dataset`, which reports each call to a server, even for local files
        if kind == "parquet":
            return cast(Dataset, Dataset.from_parquet(files, cache_dir=str(scratch)))
        sample_by = _SAMPLE_BY[corpus.document]
        return cast(Dataset, Dataset.from_text(files, cache_dir=str(scratch), sample_by=sample_by))
    except (DatasetsError, ValueError) as error:
        if isinstance(error.__cause__, OSError):  # a full disk, which the cache reports
            raise error.__cause__ from error
        raise SponError(f"corpus files must be {kind}, but {_reason(error)} (at {', '.join(files)})") from error


def _load_from_hub(corpus: CorpusConfig) -> dict[Split, Dataset]:
    what = _what(corpus)
    revision = text_commit(corpus)
    with _of_hub(what):
        loaded = load_dataset(corpus.source, corpus.name, revision=revision, split=list(corpus.splits.values()))
    rows = dict(zip(corpus.splits, loaded, strict=True))
    _check_commit(rows["calibration"], revision, what)
    return rows


def text_commit(corpus: CorpusConfig) -> str | None:
    """The commit of a hub dataset; offline, the requested revision.

    It sends one request; ``datasets`` itself would retry for half a minute without a network.

    Raises:
        NodeError: if the hub does not answer.
        SponError: if it has no such dataset or revision.
    """
    if _COMMIT.fullmatch(corpus.revision or ""):
        return corpus.revision
    if Path(corpus.source).exists():
        raise SponError(f"local text must be given as source: files, but got a path (at corpus.source {corpus.source})")
    with _of_hub(_what(corpus)):
        try:
            return HfApi().dataset_info(corpus.source, revision=corpus.revision, timeout=_HUB_TIMEOUT_S).sha
        except OfflineModeIsEnabled:
            return corpus.revision


def _what(corpus: CorpusConfig) -> str:
    return f"dataset {corpus.source}, config {corpus.name or 'default'}, splits {', '.join(corpus.splits.values())}"


@contextmanager
def _of_hub(what: str) -> Iterator[None]:
    """Turn errors of the hub's libraries into one line."""
    try:
        yield
    except (FileNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise SponError(f"cannot read {what}: {_reason(error)} ({_FIND_IT})") from error
    except (ConnectionError, HfHubHTTPError, XetDownloadError, httpx.TransportError) as error:
        raise NodeError(f"cannot reach the hub for {what}: {_reason(error)} ({_REACH_IT})") from error
    except (DatasetsError, ValueError, RuntimeError) as error:
        raise SponError(f"cannot read {what}: {_reason(error)} (at corpus)") from error


def _check_commit(rows: Dataset, commit: str | None, what: str) -> None:
    """Refuse any but the requested commit: ``datasets`` takes any copy in its cache when it cannot reach the hub.

    The directory of such a copy is named after its commit.
    """
    directories = {part for file in rows.cache_files for part in Path(file["filename"]).parts}
    if commit and commit not in directories:
        raise SponError(f"{what} must be of commit {commit}, but the cache has another (at corpus.revision)")


def _reason(error: BaseException) -> str:
    """The reason in one line; libraries wrap the cause in an exception that says nothing."""
    cause = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ else error
    return " ".join(str(cause).split())[:300]
