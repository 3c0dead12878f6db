"""The config schema of what surrounds the proposing of masks: the proxy, early stopping, and the final comparison."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from search_spaces.placement import Seed
from search_spaces.sources import Config, by_name


class ProxyConfig(Config):
    """Score masks by switching sites of one set of shared biases on and off, and train only the best for real."""

    rungs: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(16,), min_length=1)
    """Validation blocks on which a mask is scored, each rung with those of the one before. Between rungs ``stopping``
    decides who goes on; the score on the last one is the mask's score.
    """
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the calibration text in the training of the shared biases; the space's own by default."""
    n_train: int = Field(default=8, ge=1)
    """Masks trained for real, the best on the proxy."""
    n_reference: int = Field(default=10, ge=0)
    """Masks drawn at random and scored on the last rung before the search, beside the space's own allocations: what the
    algorithm has to beat, and what the text must be able to tell apart.
    """
    least_reliability: float = Field(default=0.5, ge=0, lt=1)
    """A search whose text tells these masks apart with a lower reliability stops there (``sweep.search.power``). At 0
    it always goes on.
    """

    @model_validator(mode="after")
    def _rungs_grow(self) -> "ProxyConfig":
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs must have more blocks each than the one before, but got {list(self.rungs)}")
        return self


class Asha(Config):
    """Asynchronous successive halving: at each rung the best of so many go on."""

    name: Literal["asha"] = "asha"
    grace_period: int = Field(default=1, ge=1)
    """Rungs of a proxy, or validations of a training, before the first decision."""
    reduction_factor: float = Field(default=2, gt=1)
    """One in so many goes on."""


Stopping = Annotated[Asha | None, BeforeValidator(by_name, json_schema_input_type=Literal["asha"] | Asha | None)]


class ConfirmConfig(Config):
    """The final comparison: the chosen masks, the space's own and controls, trained again and tested once."""

    seeds: tuple[Seed, ...] = Field(default=(1, 2, 3), min_length=1)
    """Data orders, other than those the choice was made with, if that is to be honest."""
    n_chosen: int = Field(default=1, ge=1)
    """Searched masks at most: those of the lowest KL, or on the Pareto front where parameters count too."""
    n_random: int = Field(default=5, ge=0)
    """Random masks of as many units, as controls; beside them are the first and the last units and, where it is not
    empty, the mask inverted.
    """

    @property
    def most_searched(self) -> int:
        """Masks of a final comparison beside the space's own, at most: the chosen, each with its controls."""
        return self.n_chosen * (4 + self.n_random)  # itself, early, late, inverted

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"a seed must be listed once, but got {list(seeds)}")
        return seeds
