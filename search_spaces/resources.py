"""The config schema of what a trial asks of the cluster."""

from typing import Literal

from pydantic import Field, model_validator

from search_spaces.sources import Config


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
