"""Libraries that say no more than what went wrong: no bars, no banners, no advice. Exceptions come through as ever."""

import logging
import os
import sys

_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers' bars, too
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TQDM_DISABLE": "1",  # the others
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DATASETS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",  # workers fork; the tokenizer warns at each fork otherwise
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of words to a listener that has gone; what matters is asked for
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
"""Read when a library is imported: workers of a Ray that this process starts inherit them."""

_LEVELS = {
    "ray": logging.ERROR,
    "ray.tune": logging.ERROR,
    "ray.tune.execution.tune_controller": logging.CRITICAL,  # tracebacks of lost workers, each one line of ours
    "alembic": logging.WARNING,  # forty lines at the first use of a new database
    "mlflow": logging.WARNING,
}


def hush() -> None:
    """Quieten the libraries, whether they are imported yet or not. What a user has set in the environment stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    if "transformers" in sys.modules:
        _hush_transformers()


def _hush_transformers() -> None:
    """Its level and its bars are set already, if it was imported before, as in a worker of a cluster."""
    from datasets import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
