"""Prompts: what a file must be, and their tokens."""

from pathlib import Path

import pytest
import torch

from analysis.prompts import Prompt, by_length, read_prompts, tokenise
from search_spaces.errors import SponError
from trainables.model.resident import load_tokenizer
from trainables.workbench import Workbench


@pytest.fixture
def tokenizer(tiny_bench: Workbench):
    return load_tokenizer(tiny_bench.materials.model)


def test_our_own_prompts_are_enough_and_all_different():
    prompts = read_prompts()
    assert set(prompts) == {"math", "commonsense", "coding", "safety", "factual"}
    assert all(len(texts) >= 20 for texts in prompts.values())
    texts = [text for category in prompts.values() for text in category]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b", "lists of texts by category, but got list"),
        (b"", "but got NoneType"),
        (b"math: one text", "must be a list of texts, but math is not"),
        (b"math: [a, 3]", "must be a list of texts, but math is not"),
        (b"math: [a, ' ']", "must be a list of texts, but math is not"),
        (b"math: [a]", "must have 2 prompts, but math has 1"),
        (b"math: [a", "must be YAML"),
        (b"math: [\xff, b]", "must be YAML"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_missing_or_of_another_form_is_one_line(content: bytes | None, message: str, tmp_path: Path):
    file = tmp_path / "prompts.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SponError, match=message) as caught:
        read_prompts(file)
    assert "\n" not in str(caught.value)


def test_prompts_are_the_models_tokens_cut_at_the_longest(tokenizer):
    short, long = tokenise({"math": ["w5 w6", "w1 w2 w3 w4"]}, tokenizer, 3)
    assert (short.category, short.text, short.tokens.tolist()) == ("math", "w5 w6", [5, 6])
    assert long.tokens.tolist() == [1, 2, 3]


def test_a_prompt_in_which_nothing_is_predicted_is_refused(tokenizer):
    with pytest.raises(SponError, match=r"two tokens, but 'w1' has 1 \(at math\)"):
        tokenise({"math": ["w1", "w1 w2"]}, tokenizer, 9)


def test_prompts_of_one_length_come_together_with_their_places():
    prompts = [Prompt("a", "", torch.arange(length)) for length in (3, 2, 3)]
    batches = [(places, tokens.shape) for places, tokens in by_length(prompts)]
    assert batches == [([1], (1, 2)), ([0, 2], (2, 3))]
