"""Text to documents to token blocks, for each split.

A document is one row of the source, or the rows of an article. Within a split the rows are tokenised one by one and
joined in order, and the token stream is cut into non-overlapping blocks, as in the seed study.
"""

import hashlib
import json
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from search_spaces.config import EMBEDDED, SPLITS, CorpusConfig, Split
from search_spaces.errors import SponError
from trainables.activity import tell
from trainables.cache import cached, content_key, file_sha256
from trainables.demo import embedded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCHEMA = 3
"""Version of a prepared corpus. Raise it when the same config gives different blocks or another layout."""

_BATCH = 256  # rows in one tokenizer call
_GOLDEN = (5**0.5 - 1) / 2
"""The fractional parts of its multiples spread evenly over 0 to 1, for any number of them from any start."""
_SHARED_CHARACTERS = 200  # headings and other short lines recur in any text; a paragraph this long does not
_VARIED = 8  # distinct tokens of a block that counts as shared; shorter or monotonous blocks recur in any text
_SHARED_BLOCKS = 0.1  # of a split; a licence on top of many files recurs too, and fills a block now and then


@dataclass(frozen=True)
class Blocks:
    """Token blocks of one split.

    Attributes:
        tokens: Tensor of shape (n_blocks, block_size), int64.
        documents: Tensor of shape (n_blocks, block_size), int64: index, within the split, of each token's document.
    """

    tokens: Tensor
    documents: Tensor


def prepare_corpus(
    corpus: CorpusConfig, tokenizer: Callable[[], "PreTrainedTokenizerBase"], tokenizer_fingerprint: str
) -> Path:
    """The directory of a tokenised corpus, built first if it is not cached; only a build loads the tokenizer.

    It holds ``<split>.safetensors`` (``Blocks``, as int32) and ``meta.json``: ``schema``, ``fingerprint``, and under
    ``splits`` the ``n_blocks``, ``n_documents`` and ``n_tokens`` (of the blocks) of each split.

    The cache key covers the config, the tokenizer, the content of local files and the *requested* revision of a hub
    dataset. Without a revision, a change of the dataset on the hub is not noticed.

    Raises:
        SponError: if the text cannot be read, a split has less than one block, or two splits share a file, a document
            or many blocks.
    """
    _check_files(corpus)
    key = content_key(SCHEMA, corpus.model_dump(mode="json"), tokenizer_fingerprint, _version(corpus))
    return cached("corpora", key, lambda directory: _build(corpus, tokenizer(), directory))


def _version(corpus: CorpusConfig) -> object:
    """What the config does not tell about the text: the embedded documents, or the content of local files."""
    if corpus.source == EMBEDDED:
        return embedded.documents_key()
    return {name: file_sha256(Path(name)) for names in corpus.files.values() for name in names}


def _check_files(corpus: CorpusConfig) -> None:
    """Refuse a file with the content of another split's file."""
    known: dict[str, tuple[Split, str]] = {}
    for split, names in corpus.files.items():
        for name in names:
            other, known_name = known.setdefault(file_sha256(Path(name)), (split, name))
            if other != split:
                raise SponError(
                    f"the splits must share no file, but {other} has {known_name} and {split} has {name} with the same "
                    "content (at corpus.files)"
                )


def load_blocks(prepared: Path, split: Split) -> Blocks:
    """The blocks of one split of a prepared corpus."""
    tensors = load_file(prepared / f"{split}.safetensors")
    return Blocks(tensors["tokens"].long(), tensors["documents"].long())


def corpus_fingerprint(prepared: Path) -> str:
    """SHA-256, in hex, of the token blocks of the three splits and of the document of each token."""
    return cast(str, json.loads((prepared / "meta.json").read_text())["fingerprint"])


@dataclass
class _Stream:
    """The tokens of a split's rows, joined.

    Attributes:
        tokens: ids, int32.
        lengths: tokens of each row, in order.
        documents: index of each row's document.
        long: hash and start of the text, by row index, of rows that must be in one split only.
    """

    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    lengths: "array[int]" = field(default_factory=lambda: array("i"))
    documents: "array[int]" = field(default_factory=lambda: array("i"))
    long: dict[int, tuple[bytes, str]] = field(default_factory=dict)

    def add(self, document: int, text: str, ids: list[int]) -> None:
        if len(text) >= _SHARED_CHARACTERS:
            self.long[len(self.lengths)] = (hashlib.sha256(text.encode()).digest(), text[:60])
        self.tokens.extend(ids)
        self.lengths.append(len(ids))
        self.documents.append(document)


def _build(corpus: CorpusConfig, tokenizer: "PreTrainedTokenizerBase", directory: Path) -> None:
    from trainables.text.documents import documents_of  # here, because it takes a second to import datasets

    blocks: dict[Split, Blocks] = {}
    long: dict[Split, dict[bytes, str]] = {}
    # Arrow copies of local files go here, and are deleted with it
    with tempfile.TemporaryDirectory(prefix=".reading.", dir=directory) as scratch:
        for split, documents in documents_of(corpus, Path(scratch)).items():
            wanted = getattr(corpus.blocks, split)
            # The study stops reading here, a block later than needed, because of its rule for the last block
            enough = (wanted + 1) * corpus.block_size if corpus.pick == "first" else None
            stream = _tokenise(documents, tokenizer, enough, split)
            starts = _pick(_block_starts(len(stream.tokens), corpus.block_size), wanted, corpus.pick)
            _check_count(split, len(starts), wanted, len(stream.tokens), corpus.block_size)
            blocks[split], long[split] = _cut(stream, starts, corpus.block_size)
    _check_disjoint(long)
    _check_blocks({split: one.tokens for split, one in blocks.items()})
    _write(blocks, directory)


def _tokenise(
    documents: Iterable[list[str]], tokenizer: "PreTrainedTokenizerBase", enough: int | None, split: Split
) -> _Stream:
    """Tokenise the rows of documents in order, up to and including the one that reaches ``enough`` tokens."""
    stream = _Stream()
    rows = ((document, text) for document, texts in enumerate(documents) for text in texts)
    while batch := list(islice(rows, _BATCH)):
        texts = [text for _, text in batch]
        ids = tokenizer(texts, add_special_tokens=False, padding=False, truncation=False, verbose=False)["input_ids"]
        for (document, text), tokens in zip(batch, ids, strict=True):
            stream.add(document, text, tokens)
            if enough is not None and len(stream.tokens) >= enough:
                return stream
        tell("cutting the text into blocks", len(stream.lengths), unit="document", note=split)
    return stream


def _block_starts(n_tokens: int, block_size: int) -> range:
    """Where the blocks of a stream start.

    This is the study's loop, which leaves out a block that ends exactly where the stream does. It stays, so that the
    study's text gives the study's blocks.
    """
    return range(0, n_tokens - block_size, block_size)


def _pick(starts: range, wanted: int, pick: str) -> list[int]:
    """At most ``wanted`` of the blocks: the first ones, or evenly spaced ones from the first to the last.

    The order of the latter spreads every prefix as well, so code that reads only some blocks of a split, as thresholds
    do, reads many documents.
    """
    if pick == "first":
        return list(starts[:wanted])
    even = torch.linspace(0, len(starts) - 1, min(wanted, len(starts)), dtype=torch.float64).round()
    order = (torch.arange(len(even), dtype=torch.float64) * _GOLDEN % 1).argsort().argsort()
    return [starts[int(i)] for i in even[order]]


def _cut(stream: _Stream, starts: list[int], block_size: int) -> tuple[Blocks, dict[bytes, str]]:
    """The blocks at some starts, and the hash and the first characters of each long row that they touch."""
    positions = torch.tensor(starts).unsqueeze(1) + torch.arange(block_size)
    ends = torch.tensor(stream.lengths).cumsum(0)
    # `right` skips rows without tokens, which end where the row before them does
    rows = torch.searchsorted(ends, positions, right=True)
    tokens = torch.frombuffer(stream.tokens, dtype=torch.int32)[positions]
    documents = torch.frombuffer(stream.documents, dtype=torch.int32)[rows]
    used = set(rows.flatten().tolist())
    long = dict(entry for row, entry in stream.long.items() if row in used)
    return Blocks(tokens.long(), documents.long()), long


def _check_count(split: Split, got: int, wanted: int, n_tokens: int, block_size: int) -> None:
    if not got:
        raise SponError(
            f"a split must have at least one block of {block_size} tokens and one more token, "
            f"but {split} has {n_tokens} tokens (at corpus)"
        )
    if got < wanted:
        print(f"the corpus gives {got} {split} blocks of the {wanted} asked for", file=sys.stderr, flush=True)


def _check_disjoint(long: dict[Split, dict[bytes, str]]) -> None:
    for one, other in combinations(long, 2):
        for digest in long[one].keys() & long[other].keys():
            text = long[one][digest]
            raise SponError(f"the splits must share no document, but {one} and {other} have {text!r}... (at corpus)")


def _check_blocks(tokens: dict[Split, Tensor]) -> None:
    """Refuse splits that share many token blocks, as they do if one repeats the other in rows that are all short."""
    varied = {split: _varied_blocks(rows) for split, rows in tokens.items()}
    for one, other in combinations(varied, 2):
        shared, fewest = len(varied[one] & varied[other]), min(len(tokens[one]), len(tokens[other]))
        if shared > max(1, _SHARED_BLOCKS * fewest):
            raise SponError(
                f"the splits must share no text, but {one} and {other} have {shared} blocks of {fewest} in common "
                "(at corpus)"
            )


def _varied_blocks(tokens: Tensor) -> set[bytes]:
    """Hashes of the blocks that have enough distinct tokens."""
    return {hashlib.sha256(row).digest() for row in tokens.numpy() if len(set(row.tolist())) >= _VARIED}


def _write(blocks: dict[Split, Blocks], directory: Path) -> None:
    digest = hashlib.sha256()
    counts: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        tokens, documents = blocks[split].tokens.int(), blocks[split].documents.int()
        digest.update(f"{split}{tuple(tokens.shape)}".encode())
        for part in (tokens, documents):
            digest.update(part.numpy().astype("<i4").tobytes())
        counts[split] = {
            "n_blocks": tokens.shape[0],
            "n_documents": len(set(documents.flatten().tolist())),
            "n_tokens": tokens.numel(),
        }
        (directory / f"{split}.safetensors").write_bytes(save({"tokens": tokens, "documents": documents}))
    meta = {"schema": SCHEMA, "fingerprint": digest.hexdigest(), "splits": counts}
    (directory / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
