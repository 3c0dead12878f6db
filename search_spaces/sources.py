"""The config schema of what a trial runs on: the model, the corpus with its three splits, and the machine."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Split = Literal["calibration", "validation", "test"]
SPLITS: tuple[Split, ...] = ("calibration", "validation", "test")
EMBEDDED = "embedded"


class Config(BaseModel):
    """Base of every config: immutable, finite numbers only, and a key that is not declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def by_name(value: object) -> object:
    """The short form of a config that has a ``name``, as the mapping that it stands for."""
    return {"name": value} if isinstance(value, str) else value


class ModelConfig(Config):
    """A causal LM."""

    source: str = Field(default=EMBEDDED, min_length=1)
    """``embedded`` (SmolLM2-135M-Instruct), a Hugging Face id, or a local directory."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the frozen weights; biases and statistics are fp32 always. ``auto`` is bfloat16 on CUDA and on CPUs that
    multiply it, else float32; the driver decides once, for all trials (``trainables.model.dtype``).
    """
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless asked for."""

    @model_validator(mode="after")
    def _revision_goes_with_a_hub(self) -> "ModelConfig":
        if self.source == EMBEDDED and self.revision is not None:
            raise ValueError(f"revision may be given only for a Hugging Face model, but got {self.revision!r}")
        return self


class BlockCounts(Config):
    """How many token blocks each split gives at most."""

    calibration: int = Field(default=2048, ge=1)
    """Blocks that biases and thresholds are made from."""
    validation: int = Field(default=256, ge=1)
    """Blocks that choices are made on."""
    test: int = Field(default=1024, ge=1)
    """Blocks of the final report, which nothing else reads."""


class CorpusConfig(Config):
    """Text, its three splits, and how it becomes token blocks."""

    source: str = Field(default=EMBEDDED, min_length=1)
    """``embedded`` (English Wikipedia sample), ``files`` (local text or parquet), or a hub dataset id."""
    name: str | None = None
    """Configuration of a hub dataset, such as ``wikitext-103-raw-v1``."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    splits: dict[Split, str] = {"calibration": "train", "validation": "validation", "test": "test"}
    """For a hub dataset, its split for each of ours. Without a validation split, every tenth calibration document is
    taken for it.
    """
    files: dict[Split, Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    """For ``files``, paths for each split (the same rule for a missing validation split)."""
    document: Literal["row", "paragraph", "file", "heading"] = "row"
    """What one document is. Intervals resample documents, and no document is torn for a missing validation split. A
    ``row`` is one of a dataset or parquet file, or a line of a text file; ``paragraph`` and ``file`` are for text files
    only. With ``heading``, each level-one heading, `` = Title = `` as in WikiText, starts an article, and an article is
    a document.
    """
    text_column: str = "text"
    """The column to read."""
    block_size: int = Field(default=128, ge=2)
    """Tokens in a block."""
    blocks: BlockCounts = BlockCounts()
    """How many blocks each split gives at most."""
    pick: Literal["first", "spread"] = "first"
    """The ``first`` blocks of the token stream (the study), or blocks ``spread`` evenly over it, in an order of which
    every beginning is spread too.
    """

    @model_validator(mode="after")
    def _documents_fit_the_source(self) -> "CorpusConfig":
        got = f"document: {self.document} and source: {self.source}"
        if self.document in ("paragraph", "file") and self.source != "files":
            raise ValueError(f"document may be paragraph or file only for text files, but got {got}")
        if self.document == "heading" and self.source == EMBEDDED:
            raise ValueError(f"document must be row where a row is an article, but got {got}")
        return self

    @property
    def on_hub(self) -> bool:
        """Whether it is a dataset of the hub."""
        return self.source not in (EMBEDDED, "files")

    @model_validator(mode="after")
    def _splits_are_whole_and_apart(self) -> "CorpusConfig":
        if self.source == "files" and not {"calibration", "test"} <= set(self.files):
            raise ValueError(f"a corpus of files must name calibration and test files, but got {sorted(self.files)}")
        if self.source != "files" and self.files:
            raise ValueError(f"files may be named only with source: files, but got source: {self.source}")
        if not {"calibration", "test"} <= set(self.splits):
            raise ValueError(f"splits must name calibration and test, but got {sorted(self.splits)}")
        if not self.on_hub and (self.name or self.revision):
            given = self.name or self.revision
            raise ValueError(f"name and revision may be given only for a hub dataset, but got {given!r}")
        texts = list(self.splits.values()) + [file for files in self.files.values() for file in files]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None:
            raise ValueError(f"a text must be in one split only, but got {twice!r} twice")
        return self


class ResourcesConfig(Config):
    """What one trial asks of the cluster, and how much of it at most. Of a result it decides the device alone."""

    cpus_per_trial: int = Field(default=1, ge=1)
    """Ray CPUs, and torch threads, of a trial."""
    gpus_per_trial: float = Field(default=0.0, ge=0)
    """One GPU, or the fraction of one that a trial has while it shares it; zero trains on the CPU."""
    accelerator_type: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+$")
    """Ray's name of the accelerator that a trial must have, such as ``A100``; any by default."""
    memory_gib: float | None = Field(default=None, gt=0)
    """What a trial is said to take of its node's memory. Ray starts no more trials on a node than fit by this figure,
    but holds none to it: where a node's memory runs out, Ray kills a worker, which is one of ``max_failures``.
    """
    max_concurrent: int | None = Field(default=None, ge=1)
    """Trials at once; as many as fit by default."""
    max_failures: int = Field(default=2, ge=0)
    """Times that a trial is started again after its process was lost or its node was at fault. A node that dies costs
    none.
    """
    max_minutes: float | None = Field(default=None, gt=0)
    """Minutes of training and validation before a trial is failed, looked at between optimiser steps."""
    price_per_hour: float | None = Field(default=None, gt=0)
    """Price of the place of one trial, in any currency, for ``sweep status``."""

    @model_validator(mode="after")
    def _a_trial_uses_one_gpu(self) -> "ResourcesConfig":
        if self.gpus_per_trial > 1:
            got = f"gpus_per_trial={self.gpus_per_trial:g}"
            raise ValueError(f"a trial must use one GPU, or a fraction to share one, but got {got}")
        return self

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """Where a trial runs: CUDA exactly when it asks for a GPU."""
        return "cuda" if self.gpus_per_trial else "cpu"

    @property
    def bundle(self) -> dict[str, float]:
        """What a trial takes of a node, by the names that Ray gives to resources."""
        bundle: dict[str, float] = {"CPU": self.cpus_per_trial}
        if self.gpus_per_trial:
            bundle["GPU"] = self.gpus_per_trial
        if self.memory_gib:
            bundle["memory"] = round(self.memory_gib * 2**30)
        if self.accelerator_type:
            bundle[f"accelerator_type:{self.accelerator_type}"] = 0.001  # a mark of the node, which Ray counts to one
        return bundle
