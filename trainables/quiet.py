"""Reduces the output of libraries to errors: no progress bars, banners or advice. Exceptions pass as usual."""

import logging
import os
import sys

_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # also those of transformers
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TQDM_DISABLE": "1",  # all other progress bars
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DATASETS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",  # workers fork; the tokenizer warns at each fork otherwise
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of messages to a listener that is gone; results that matter are fetched
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
"""Read when a library is imported; workers of a Ray that this process starts inherit them."""

_LEVELS = {
    "ray": logging.ERROR,
    "ray.tune": logging.ERROR,
    "ray.tune.execution.tune_controller": logging.CRITICAL,  # tracebacks of lost workers; we print one line each
    "alembic": logging.WARNING,  # forty lines at the first use of a new database
    "mlflow": logging.WARNING,
}


def hush() -> None:
    """Quieten the libraries, whether they are imported yet or not. Variables that the user has set stay."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    if "transformers" in sys.modules:
        _hush_transformers()


def _hush_transformers() -> None:
    """Quieten transformers when it was imported before the environment was set, as in a cluster's worker."""
    from datasets import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
