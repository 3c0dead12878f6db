"""The steps of a training run, and the learning rate of each."""

import math

from search_spaces.config import TrainingConfig


def learning_rate(step: int, total_steps: int, training: TrainingConfig) -> float:
    """Learning rate of a step, counted from zero: linear warm-up, then the schedule down to zero at ``total_steps``."""
    if step < training.warmup_steps:
        return training.lr * (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / max(1, total_steps - training.warmup_steps)
    factor = {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
    }[training.schedule]
    return training.lr * factor


def steps_per_epoch(n_blocks: int, training: TrainingConfig) -> int:
    """Optimiser steps in one pass over ``n_blocks`` blocks; the last one may be smaller."""
    return math.ceil(n_blocks / (training.batch_size * training.gradient_accumulation_steps))


def total_steps(n_blocks: int, training: TrainingConfig) -> int:
    """Optimiser steps of a whole run."""
    whole = training.epochs * steps_per_epoch(n_blocks, training)
    return min(whole, training.max_steps) if training.max_steps else whole
