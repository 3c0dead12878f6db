"""The config schema of a search: which masks, by which algorithm, at what budget, and the final comparison."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from search_spaces.masks import MaskFamily
from search_spaces.placement import PlanConfig, Seed
from search_spaces.sources import Config, by_name

Objective = Literal["val_kl_nats", "n_spon_params"]


class Tpe(Config):
    """Tree-structured Parzen estimators, of all parameters jointly; running trials count as poor, so that parallel ones
    differ.
    """

    name: Literal["tpe"] = "tpe"
    n_startup_trials: int = Field(default=10, ge=1)
    """Random trials before the first modelled one."""


class Nsga2(Config):
    """NSGA-II, a genetic algorithm for one or several objectives."""

    name: Literal["nsga2"] = "nsga2"
    population_size: int = Field(default=20, ge=2)
    """Masks of a generation."""


class Random(Config):
    """Independent uniform draws: what the others have to beat."""

    name: Literal["random"] = "random"


class Grid(Config):
    """Every suggestion once, in random order; for small spaces such as windows."""

    name: Literal["grid"] = "grid"


Algorithm = Annotated[
    Tpe | Nsga2 | Random | Grid,
    Field(discriminator="name"),
    BeforeValidator(
        by_name,
        json_schema_input_type=Literal["tpe", "nsga2", "random", "grid"] | Tpe | Nsga2 | Random | Grid,
    ),
]


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
    """Asynchronous successive halving: after each rung of a proxy, or validation of a training, the best go on."""

    name: Literal["asha"] = "asha"
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


class SearchConfig(Config):
    """What stands under ``search:`` in a space.

    Every mask is trained with the first of the space's seeds, or scored on a proxy first.
    """

    masks: MaskFamily
    """Which masks there are."""
    algorithm: Algorithm = Tpe()
    """What proposes masks: a mapping with a ``name``, or the bare name."""
    objectives: tuple[Objective, ...] = ("val_kl_nats",)
    """What is minimised: the KL, or the KL and the number of parameters, for their Pareto front."""
    n_masks: int = Field(default=64, ge=1)
    """Masks that are evaluated."""
    seed: Seed = 42
    """Seed of the algorithm."""
    proxy: ProxyConfig | None = None
    """Score masks without training them; without it, each is trained."""
    stopping: Stopping = None
    """Ends masks early, on validation KL after each rung of the proxy, or each validation of a training. The algorithm
    is then told that they were stopped, never a score that is not on all text.
    """
    confirm: ConfirmConfig = ConfirmConfig()
    """The final comparison."""

    @field_validator("objectives")
    @classmethod
    def _objectives_are_known(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if objectives not in (("val_kl_nats",), ("val_kl_nats", "n_spon_params")):
            got = f"[{', '.join(objectives)}]"
            raise ValueError(f"objectives must be [val_kl_nats] or [val_kl_nats, n_spon_params], but got {got}")
        return objectives

    @property
    def counts_params(self) -> bool:
        """Whether few parameters are an objective beside a low KL."""
        return "n_spon_params" in self.objectives

    def most_compared(self, n_own: int) -> int:
        """Masks in the final comparison, at most, ``n_own`` of them the space's own allocations."""
        return n_own + self.confirm.most_searched

    @model_validator(mode="after")
    def _proxy_suits_the_rest(self) -> "SearchConfig":
        if self.proxy is not None and (len(self.proxy.rungs) > 1) != (self.stopping is not None):
            got = f"rungs={list(self.proxy.rungs)}, stopping={self.stopping and self.stopping.name}"
            raise ValueError(f"a proxy must have stopping exactly when it has several rungs, but got {got}")
        return self

    def check_beside(self, plan: PlanConfig, sparsity: tuple[float, ...], validation_blocks: int) -> None:
        """Check the search against the rest of its space.

        Raises:
            ValueError: if the two contradict each other, or leave open what is compared.
        """
        if len(sparsity) > 1 or len(plan.methods) > 1:
            got = f"sparsity={list(sparsity)}, plan.levels={list(plan.methods)}"
            raise ValueError(f"a search must have one sparsity and one way to spread it, but got {got}")
        if plan.modules == "matched" and len(self.masks.modules) > 1:
            # matched would sparsify less for a mask of fewer modules, and the search would prefer it for that
            got = f"plan.modules=matched with masks of {', '.join(self.masks.modules)}"
            raise ValueError(f"a search over several modules must list plan.modules, but got {got}")
        if self.proxy is not None and self.proxy.rungs[-1] > validation_blocks:
            got = f"rungs={list(self.proxy.rungs)}, corpus.blocks.validation={validation_blocks}"
            raise ValueError(f"rungs must have at most the validation blocks that there are, but got {got}")
