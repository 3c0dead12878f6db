"""Prompts by category, read from a user's YAML file, and their tokens."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from search_spaces.errors import SponError

PROMPTS = Path(__file__).with_name("prompts.yaml")
_FEWEST = 2  # prompts in a category, the least that has a spread


class Prompt(NamedTuple):
    """One prompt.

    Attributes:
        tokens: (length,) ids, with the special tokens that the tokenizer adds.
    """

    category: str
    text: str
    tokens: Tensor


def read_prompts(file: Path = PROMPTS) -> dict[str, list[str]]:
    """Read prompts from a YAML file with a list of texts under each category.

    Raises:
        SponError: if the file is missing or has another form, or a category has fewer than two prompts.
    """
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SponError(f"prompts must be a YAML file, but {error.strerror} (at {file})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SponError(f"prompts must be YAML, but {' '.join(str(error).split())[:160]} (at {file})") from error
    if not isinstance(raw, dict) or not raw:
        raise SponError(f"prompts must be lists of texts by category, but got {type(raw).__name__} (at {file})")
    for category, texts in raw.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise SponError(f"a category must be a list of texts, but {category} is not (at {file})")
        if len(texts) < _FEWEST:
            raise SponError(f"a category must have {_FEWEST} prompts, but {category} has {len(texts)} (at {file})")
    return {str(category): texts for category, texts in raw.items()}


def tokenise(prompts: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase, longest: int) -> tuple[Prompt, ...]:
    """Tokenise prompts as the model expects them, and cut those with more than ``longest`` tokens.

    Raises:
        SponError: if a prompt has fewer than two tokens, so that it predicts nothing.
    """
    found = []
    for category, texts in prompts.items():
        for text in texts:
            encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest, verbose=False)
            ids = encoded["input_ids"][0]
            if len(ids) < 2:
                raise SponError(f"a prompt must have two tokens, but {text!r} has {len(ids)} (at {category})")
            found.append(Prompt(category, text, ids))
    return tuple(found)


def by_length(prompts: Sequence[Prompt]) -> Iterator[tuple[list[int], Tensor]]:
    """Group prompts by length, so that each group runs as a batch without padding.

    Yields:
        Their indices among the prompts, and tokens of shape (batch, length).
    """
    lengths = [len(prompt.tokens) for prompt in prompts]
    for length in sorted(set(lengths)):
        places = [place for place, other in enumerate(lengths) if other == length]
        yield places, torch.stack([prompts[place].tokens for place in places])
