"""Teacher statistics: all that a trial needs to know about the dense model, computed once and kept on local disk.

See ``trainables.loss`` for the mathematics. The statistics depend only on the model, the kind of device, the text and
the temperature, so every trial of every sweep shares them, and no trial runs the dense model.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.activity import tell
from trainables.cache import cached_together, content_key, is_cached
from trainables.loss import exponentials, logits_of, mean_rows, operand, token_chunks
from trainables.model.resident import ResidentModel

_STATS = "stats.safetensors"
_SCHEMA = 3
"""Version of the cached statistics. Raise it when the same inputs give different ones."""


@dataclass(frozen=True)
class Teacher:
    """Statistics of the dense model on the blocks of one split, on the model's device, memory-mapped on a CPU.

    Attributes:
        mean_row: m of shape (blocks, seq, hidden), fp32.
        entropy: H of shape (blocks, seq), fp32, nats.
        nll: negative log-likelihood of each next token, (blocks, seq - 1), fp32, nats, at temperature 1.
    """

    mean_row: Tensor
    entropy: Tensor
    nll: Tensor


def teacher_of(model: ResidentModel, tokens: Tensor, name: str, temperature: float = 1.0) -> Teacher:
    """Load the statistics of some text, computing them first if they are not cached.

    Args:
        model: in its dense state.
        tokens: (blocks, seq) token ids.
        name: of the text, for progress reports.
        temperature: of the dense distribution.

    Raises:
        RuntimeError: if the statistics are not cached yet and the model is not dense.
    """
    text = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
    identity = (model.fingerprint, str(model.network.dtype), model.device.type, text, tokens.shape)
    key = content_key(_SCHEMA, *identity, float(temperature))

    if not is_cached("teacher", key):
        model.check_dense()
    batches = [tokens[rows] for rows in model.batches(tokens)]

    def part(number: int, directory: Path) -> None:
        tell(f"teacher statistics of the {name} text", number, len(batches), "batch")
        save_file(_statistics(model, batches[number], temperature), directory / _STATS)

    def merge(parts: list[Path], directory: Path) -> None:
        stats = [load_file(part / _STATS) for part in parts]
        save_file({what: torch.cat([one[what] for one in stats]) for what in stats[0]}, directory / _STATS)

    place = cached_together("teacher", key, [partial(part, number) for number in range(len(batches))], merge)
    stats = load_file(place / _STATS, device=str(model.device))
    return Teacher(stats["mean_row"], stats["entropy"], stats["nll"])


@torch.inference_mode()
def _statistics(model: ResidentModel, tokens: Tensor, temperature: float) -> dict[str, Tensor]:
    """Statistics of a batch of (blocks, seq) tokens."""
    batch = tokens.to(model.device)
    hidden, labels = model.hidden(batch).float(), next_tokens(batch).flatten()
    head, values = operand(model.head), model.head.dtype
    mean_row, entropy, nll = _distribution(hidden.flatten(0, 1), head, values, labels, temperature)
    return {
        "mean_row": mean_row.view_as(hidden).cpu(),
        "entropy": entropy.view(batch.shape).cpu(),
        "nll": nll.view(batch.shape)[:, :-1].contiguous().cpu(),
    }


def next_tokens(tokens: Tensor) -> Tensor:
    """The label of each position of (batch, seq) tokens: the next token or, at the last position, its own."""
    return torch.cat((tokens[:, 1:], tokens[:, -1:]), dim=1)


def _distribution(
    hidden: Tensor, head: Tensor, values: torch.dtype, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute m of shape (tokens, hidden), H and NLL of shape (tokens,), from the tokens' hidden states and labels.

    Weights are divided by their own sum: exp(log_softmax) does not sum to one, and with |h| of 40 that costs 1e-4 nats.
    """
    mean_row, entropy, nll = torch.empty_like(hidden), hidden.new_empty(len(hidden)), hidden.new_empty(len(hidden))
    for part in token_chunks(hidden):
        logits = logits_of(hidden[part], head, values)
        label = logits.gather(1, labels[part, None]).squeeze(1)
        scaled = logits / temperature
        weights, total, lse = exponentials(scaled.clone())
        mean_row[part] = mean_rows(weights, head).div_(total[:, None])
        entropy[part] = lse - weights.mul_(scaled).sum(dim=-1) / total
        nll[part] = (lse if temperature == 1 else logits.logsumexp(dim=-1)) - label
    return mean_row, entropy, nll
