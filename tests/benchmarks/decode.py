"""One token at a time on a CPU, one thread: what the zeros of its inputs save, a product and a whole model.

python -m tests.benchmarks.decode [--adapter DIR] [--dtype bfloat16]

A token's product is as fast as its weights come from memory. A decoder comes to a layer again after all the others, so
that its weights are out of the cache: each call here takes the next of enough copies. ``--adapter`` is an export for
the embedded model, such as ``python -m sweep find embedded --sparsity 0.5 --out DIR`` makes; with it text is generated.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from analysis.export import load
from tests.benchmarks.table import print_table
from trainables.demo import embedded

SHAPES = ((576, 1536), (1536, 576), (2048, 2048), (2048, 8192), (8192, 2048))
"""(in, out): gate_proj and down_proj of the embedded model; o_proj, gate_proj and down_proj of a 1B Llama."""
SPARSITIES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9)
_COPIES_BYTES = 2**28
"""Of all copies together: eight times the last cache of what this was measured on."""
_ROUNDS = 7
_PROMPT, _NEW_TOKENS = "The history of the city begins with", 96

Product = Callable[[], Tensor]


def in_turn(products: dict[str, list[Product]]) -> dict[str, float]:
    """Median CPU seconds of a product, over rounds through all copies, taken in turn: all share the machine's moods.

    CPU time of the one thread leaves out what other processes take meanwhile, but not how they slow the memory.
    """
    taken: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(_ROUNDS + 1):
        for name, copies in products.items():
            started = time.thread_time()
            for product in copies:
                product()
            taken[name].append((time.thread_time() - started) / len(copies))
    return {name: median(values[1:]) for name, values in taken.items()}  # the first round warms up


def measure(n_in: int, n_out: int, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of torch's product, of ours by the sparsity of its input, and of ours at 50% with a bias."""
    copies = max(2, _COPIES_BYTES // (n_in * n_out * dtype.itemsize))
    layers = [nn.Linear(n_in, n_out, bias=False, dtype=dtype) for _ in range(copies)]
    biased = [nn.Linear(n_in, n_out, dtype=dtype) for _ in range(copies)]
    x = torch.randn(1, n_in).to(dtype)
    sparse = {s: load.keep_above(x, x.float().abs().quantile(s).item()) for s in SPARSITIES}
    products = {"dense": [lambda layer=layer: nn.Linear.forward(layer, x) for layer in layers]}
    skipping = [load._SkipZeros(layer, _product(layer)) for layer in layers]
    for s, input_ in sparse.items():
        products[f"{s}"] = [lambda skip=skip, input_=input_: skip._forward(input_) for skip in skipping]
    skipping = [load._SkipZeros(layer, _product(layer)) for layer in biased]
    products["biased"] = [lambda skip=skip: skip._forward(sparse[0.5]) for skip in skipping]
    with torch.inference_mode():
        return in_turn(products)


def _product(layer: nn.Linear) -> load._Product:
    product = load._product_for(layer)
    if product is None:
        raise SystemExit("this needs a C compiler")
    return product


def show_products(dtype: torch.dtype) -> None:
    """Print a row for each shape."""
    rows = []
    for n_in, n_out in SHAPES:
        taken = measure(n_in, n_out, dtype)
        bias = f"{taken['biased'] / taken['0.5'] - 1:+.1%}"
        figures = [f"{taken['dense'] / taken[f'{s}']:.2f}x" for s in SPARSITIES]
        rows.append((f"{n_in} -> {n_out}", f"{1e6 * taken['dense']:.0f}", *figures, bias))
    head = ["product", "dense, microseconds", *(f"{s:.0%}" for s in SPARSITIES), "a bias, at 50%"]
    print_table(f"One token, one thread, {dtype}, median of {_ROUNDS}: times faster than torch's product", head, rows)


def generate(model: PreTrainedModel, prompt: Tensor, text: list[int] | None = None) -> tuple[list[int], float]:
    """The likeliest tokens after a prompt one by one, and seconds a token, the prefill left out.

    Args:
        model: in whatever state it is in.
        prompt: (1, tokens).
        text: to go along; the model's own by default.
    """
    with torch.inference_mode():
        out = model(prompt, use_cache=True)
        chosen = [int(out.logits[0, -1].argmax())]
        started = time.perf_counter()
        while len(chosen) < _NEW_TOKENS:
            last = (text or chosen)[len(chosen) - 1]
            out = model(torch.tensor([[last]]), past_key_values=out.past_key_values, use_cache=True)
            chosen.append(int(out.logits[0, -1].argmax()))
    return chosen, (time.perf_counter() - started) / (_NEW_TOKENS - 1)


@contextmanager
def by_our_product(model: PreTrainedModel, adapter: Path) -> Iterator[None]:
    """The dense model multiplies by our product while the block runs."""
    layers = [model.get_submodule(path) for path in load.read_spec(adapter).sites]
    swaps = [load._SkipZeros(layer, _product(layer)) for layer in layers]
    yield
    for swap in swaps:
        swap.remove()


def show_generation(adapter: Path, dtype: torch.dtype) -> None:
    """Print how fast the embedded model generates, dense, as the adapter makes it, and by our product alone."""
    directory = embedded.model_dir()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval().requires_grad_(False)
    prompt = AutoTokenizer.from_pretrained(directory)(_PROMPT, return_tensors="pt").input_ids
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "dense": nullcontext,
        "dense, by our product": lambda: by_our_product(model, adapter),
        "sparse, zeros multiplied": lambda: load.load_spon(model, adapter, skip_zeros=False),
        "sparse, zeros skipped": lambda: load.load_spon(model, adapter),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for way, attached in [*ways.items()] * _ROUNDS:
        with attached():
            taken[way].append(generate(model, prompt)[1])
    rows, reference = [], list[int]()
    for way, attached in ways.items():
        with attached():
            own = way in ("dense", "sparse, zeros multiplied")
            reference = generate(model, prompt)[0] if own else reference
            same = sum(map(int.__eq__, generate(model, prompt, reference)[0], reference)) / _NEW_TOKENS
        ms = 1e3 * median(taken[way])
        rows.append((way, f"{ms:.1f}", f"{1e3 * median(taken['dense']) / ms:.2f}x", f"{same:.0%}"))
    title = f"{_NEW_TOKENS} tokens by the embedded model, one thread, {dtype}, median of {_ROUNDS}"
    print_table(title, ["way", "ms a token", "faster than dense", "same tokens as by torch's product"], rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--adapter", type=Path, help="an export for the embedded model, to generate with")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    show_products(dtype)
    if options.adapter:
        show_generation(options.adapter, dtype)


if __name__ == "__main__":
    main()
