"""The config schema of a search: which masks and other choices, by which algorithm, at what budget."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from search_spaces.masks import MaskFamily, in_order
from search_spaces.placement import Level, PlanConfig, Seed
from search_spaces.search_stages import ConfirmConfig, ProxyConfig, Stopping
from search_spaces.sites import Module
from search_spaces.sources import Config

Objective = Literal["val_kl_nats", "n_spon_params"]


class Tpe(Config):
    """Tree-structured Parzen estimators.

    Attributes:
        multivariate: model parameters jointly, in groups that occur together.
        constant_liar: count running trials as poor, so that parallel ones differ.
        n_startup_trials: random trials before the first modelled one.
    """

    name: Literal["tpe"] = "tpe"
    multivariate: bool = True
    constant_liar: bool = True
    n_startup_trials: int = Field(default=10, ge=1)


class Nsga2(Config):
    """NSGA-II, a genetic algorithm for one or several objectives."""

    name: Literal["nsga2"] = "nsga2"
    population_size: int = Field(default=20, ge=2)


class Random(Config):
    """Independent uniform draws: what the others have to beat."""

    name: Literal["random"] = "random"


class Grid(Config):
    """Every suggestion once, in random order; for small spaces such as windows."""

    name: Literal["grid"] = "grid"


Algorithm = Annotated[
    Tpe | Nsga2 | Random | Grid,
    Field(discriminator="name"),
    BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value),
]


class Constraint(Config):
    """What a mask must satisfy to be trained.

    Attributes:
        max_params: upper limit on ``n_spon_params``.
    """

    max_params: int | None = Field(default=None, ge=1)


class LearningRates(Config):
    """Learning rates from ``low`` to ``high``, by default uniform in their logarithm."""

    low: float = Field(gt=0)
    high: float
    log: bool = True

    @model_validator(mode="after")
    def _low_is_below_high(self) -> "LearningRates":
        if self.low >= self.high:
            raise ValueError(f"low < high must hold, but got (low={self.low}, high={self.high})")
        return self


class Steps(Config):
    """Optimiser steps at most (``training.max_steps``), from ``low`` to ``high``, both included."""

    low: int = Field(ge=1)
    high: int

    @model_validator(mode="after")
    def _low_is_below_high(self) -> "Steps":
        if self.low >= self.high:
            raise ValueError(f"low < high must hold, but got (low={self.low}, high={self.high})")
        return self


class SearchConfig(Config):
    """What stands under ``search:`` in a space.

    Every mask is trained with the first of the space's seeds, or scored on a proxy first.

    Attributes:
        masks: family of masks (``search_spaces.masks``).
        constraint: what a mask must satisfy.
        algorithm: a mapping with a ``name``, or the bare name.
        objectives: minimised together.
        n_masks: budget, in masks.
        seed: of the algorithm.
        lr, max_steps: ranges that replace the training's own value.
        sparsity: choices that replace the space's one level.
        plan_modules: choices that replace ``plan.modules``; a mask then only has modules of the plan it is tried with.
        proxy: score masks without training them; without it, each is trained.
        stopping: ends masks early, on validation KL after each rung of the proxy, or each validation of a training.
            The algorithm is then told that they were stopped, never a score that is not on all text.
        confirm: the final comparison.
    """

    masks: MaskFamily
    constraint: Constraint = Constraint()
    algorithm: Algorithm = Tpe()
    objectives: tuple[Objective, ...] = ("val_kl_nats",)
    n_masks: int = Field(default=64, ge=1)
    seed: Seed = 42
    lr: LearningRates | None = None
    max_steps: Steps | None = None
    sparsity: tuple[Level, ...] | None = None
    plan_modules: tuple[tuple[Module, ...], ...] | None = None
    proxy: ProxyConfig | None = None
    stopping: Stopping = None
    confirm: ConfirmConfig = ConfirmConfig()

    @field_validator("objectives")
    @classmethod
    def _objectives_are_known(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if objectives not in (("val_kl_nats",), ("val_kl_nats", "n_spon_params")):
            got = f"[{', '.join(objectives)}]"
            raise ValueError(f"objectives must be [val_kl_nats] or [val_kl_nats, n_spon_params], but got {got}")
        return objectives

    @field_validator("sparsity")
    @classmethod
    def _sparsities_are_choices(cls, levels: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if levels is not None and (not levels or len(set(levels)) != len(levels)):
            raise ValueError(f"choices of sparsity must be at least one and each once, but got {list(levels)}")
        return levels

    @field_validator("plan_modules")
    @classmethod
    def _plans_are_choices(cls, plans: tuple[tuple[Module, ...], ...] | None) -> tuple[tuple[Module, ...], ...] | None:
        if plans is None:
            return None
        ordered = tuple(in_order(modules, "a choice of plan_modules") for modules in plans)
        if not ordered or len(set(ordered)) != len(ordered):
            got = [list(modules) for modules in plans]
            raise ValueError(f"choices of plan_modules must be at least one and each once, but got {got}")
        return ordered

    @property
    def chooses_over_all(self) -> bool:
        """Whether masks of all plans are ranked together: hardly two share their rate or steps, if searched."""
        return bool(self.lr or self.max_steps)

    def most_compared(self, n_own: int, n_plans: int) -> int:
        """Masks in all final comparisons, at most: one comparison a plan, or one a chosen mask.

        Args:
            n_own: the space's own allocations; beside a mask that was chosen over all they are compared as given too.
            n_plans: that are searched.
        """
        if self.chooses_over_all:
            return self.confirm.n_chosen * 2 * n_own + self.confirm.most_searched
        return n_plans * (n_own + self.confirm.most_searched)

    @property
    def _ranges(self) -> list[str]:
        names = ("lr", "max_steps", "sparsity", "plan_modules")
        return [name for name in names if getattr(self, name) is not None]

    @model_validator(mode="after")
    def _algorithm_suits_the_space(self) -> "SearchConfig":
        if isinstance(self.algorithm, Grid) and self.lr is not None:
            raise ValueError("a grid must have no real-valued parameter, but got lr")
        return self

    @model_validator(mode="after")
    def _proxy_suits_the_rest(self) -> "SearchConfig":
        if self.proxy is None:
            return self
        trained = [name for name in ("lr", "max_steps") if name in self._ranges]
        if trained:
            raise ValueError(f"a proxy must have no range that only training can try, but got {', '.join(trained)}")
        if (len(self.proxy.rungs) > 1) != (self.stopping is not None):
            got = f"rungs={list(self.proxy.rungs)}, stopping={self.stopping and self.stopping.name}"
            raise ValueError(f"a proxy must have stopping exactly when it has several rungs, but got {got}")
        return self

    def check_beside(self, plan: PlanConfig, sparsity: tuple[float, ...], validation_blocks: int) -> None:
        """Check the search against the rest of its space.

        Raises:
            ValueError: if the two contradict each other, or leave open what is compared.
        """
        if self.sparsity is None and len(sparsity) > 1:
            raise ValueError(f"a search must have one sparsity, or search.sparsity, but got sparsity={list(sparsity)}")
        if self.plan_modules is None and plan.modules == "matched" and len(self.masks.modules) > 1:
            # matched would sparsify less for a mask of fewer modules, and the search would prefer it for that
            got = f"plan.modules=matched with masks of {', '.join(self.masks.modules)}"
            raise ValueError(f"a search over several modules must list plan.modules, but got {got}")
        choices = [name for name in ("sparsity", "plan_modules") if getattr(self, name) is not None]
        if plan.is_measured and (choices or len(plan.methods) > 1):
            got = f"plan.levels={list(plan.methods)}, choices of {', '.join(choices) or 'nothing else'}"
            raise ValueError(f"a search under measured levels must have one plan, but got {got}")
        if self.proxy is not None and self.proxy.rungs[-1] > validation_blocks:
            got = f"rungs={list(self.proxy.rungs)}, corpus.blocks.validation={validation_blocks}"
            raise ValueError(f"rungs must have at most the validation blocks that there are, but got {got}")
