"""What a GPU makes of it: ceilings, a training step, scoring, Fisher curves and several trials, on random Llamas.

python -m tests.benchmarks.gpu [--shapes 1B 8B]

It needs neither Ray nor a network nor a hub. Without a GPU it runs a tiny shape, which shows only that all of it runs.
"""

import argparse
import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from search_spaces.config import TrainingConfig
from search_spaces.resolve import Fingerprints
from search_spaces.sites import Site
from search_spaces.trial import TrialPlan
from tests.benchmarks.plain import Plain
from tests.benchmarks.table import print_table
from trainables.cost import step_flop
from trainables.evaluation import score
from trainables.loss import token_chunks
from trainables.model.attention import attention_for
from trainables.model.compiled import can_compile
from trainables.model.resident import ModelSource, ResidentModel, shape_of
from trainables.sparse import sparsified
from trainables.teal import kth_largest
from trainables.text.corpus import Blocks
from trainables.training import Trainer
from trainables.workbench import Materials, Workbench

_COMMON = {"rope_theta": 500000.0, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "vocab_size": 128256}
_HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
    | {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "tie_word_embeddings": True}
    | _HEADS,
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "tie_word_embeddings": False}
    | _HEADS,
}
"""Of Llama-3.2-1B and Llama-3.1-8B, and one for a CPU."""
SPARSITY, BATCH, LENGTH, BLOCKS = 0.5, 8, 128, 64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WAYS = ("compiled", "graph", "eager") if DEVICE == "cuda" else ("eager",)
"""A pass as it is, as a CUDA graph, and as a CUDA graph of compiled layers, which is what a trial does."""
Found = dict[str, Any]


class RandomBench(Workbench):
    """A workbench of random weights and random text.

    Args:
        name: of a shape.
        network: to use instead of a new one.
    """

    def __init__(self, name: str, network: LlamaForCausalLM | None = None) -> None:
        network = network or _random_llama(name)
        shape = shape_of(network, name)
        self.model = ResidentModel(network, shape, name)
        source = ModelSource(name, None, name, False)
        self.materials = Materials(source, shape, Path("random"), Fingerprints(name, "random"))
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(shape.vocab_size, (BLOCKS, LENGTH), generator=generator)
        documents = torch.arange(BLOCKS)[:, None].expand(-1, LENGTH)
        self._blocks = {"calibration": Blocks(tokens, documents), "validation": Blocks(tokens.flip(0), documents)}
        self._open_test, self._teachers, self._thresholds = False, {}, {}

    def plan(self, rule: str) -> TrialPlan:
        """All sites at one level."""
        levels = {str(site): SPARSITY for site in self.model.shape.sites}
        return TrialPlan(levels=levels, rule=rule, tokens="all", calibration_blocks=16)  # type: ignore[arg-type]

    def trainer(self, rule: str) -> Trainer:
        """Biases at all sites."""
        training = TrainingConfig(batch_size=BATCH, epochs=1000, lr=1e-3)
        return Trainer(self, self.plan(rule), tuple(self.model.shape.sites), training)


def _random_llama(name: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    with torch.device(DEVICE):
        network = LlamaForCausalLM._from_config(
            LlamaConfig(**(_COMMON | SHAPES[name])),
            dtype=torch.bfloat16,
            attn_implementation=attention_for(DEVICE, "bfloat16"),
        )
    network.eval().requires_grad_(False)
    return network


def wait() -> None:
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timed(run: Callable[[], object]) -> float:
    """Seconds of a call, the device waited for."""
    wait()
    started = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - started


def seconds(run: Callable[[], object], repeats: int = 7, warm: int = 3) -> float:
    """Median seconds of a call."""
    for _ in range(warm):
        run()
    return median(timed(run) for _ in range(repeats))


def ceilings() -> Found:
    """TFLOP/s of a large bf16 product of random numbers, and TB/s of a large copy, read and written."""
    n, copied = (8192, 2**30) if DEVICE == "cuda" else (256, 2**20)
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(copied, device=DEVICE, dtype=torch.bfloat16).normal_()
    target = torch.empty_like(source)
    copy_seconds = seconds(lambda: target.copy_(source))
    return {"tflops": 2 * n**3 / seconds(lambda: a @ b) / 1e12, "copy_tb_s": 4 * copied / copy_seconds / 1e12}


@contextmanager
def way_of(way: str) -> Iterator[None]:
    """Trainers made and run in this block take their passes in one of ``WAYS``."""
    with patch("trainables.training.can_compile", lambda device: way == "compiled" and can_compile(device)):
        yield


def step(bench: RandomBench, way: str, rule: str, top: float) -> Found:
    """One optimiser step, biases at all sites: median time, share of the ceiling, peak memory, time of the first."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with way_of(way):
        if way == "plain":
            plain = Plain(bench.model, tuple(bench.model.shape.sites), SPARSITY)
            tokens = bench.blocks("calibration").tokens[:BATCH].to(DEVICE)
            first, taken = timed(lambda: plain.step(tokens)), seconds(lambda: plain.step(tokens), 5, 1)
        else:
            trainer = bench.trainer(rule)
            if way == "eager":
                trainer.recorded = None
            with trainer.sparse_model():
                first, taken = timed(trainer.take_step), seconds(trainer.take_step, 15, 4)
    flop = step_flop(bench.model.shape, BATCH * LENGTH, bench.model.shape.sites)
    found = {"way": way, "rule": rule, "ms": 1e3 * taken, "of_ceiling": flop / taken / top / 1e12, "first_s": first}
    peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else None
    return found | {"tokens_s": BATCH * LENGTH / taken, "peak_gib": peak}


def gradient(bench: RandomBench, way: str) -> dict[Site, Tensor]:
    """The gradient of the first step's loss in each site's bias."""
    with way_of(way):
        trainer = bench.trainer("threshold")
        with trainer.sparse_model():
            trainer.add_gradient(torch.arange(BATCH, device=DEVICE))
    return {
        site: vector.grad.double().cpu() for site, vector in trainer.biases.vectors.items() if vector.grad is not None
    }


def exactness(name: str, bench: RandomBench) -> Found:
    """Cosine of each site's gradient in bf16 to that of the same weights in fp32: the worst site and the median."""
    network = copy.deepcopy(bench.model.network).float()
    exact = gradient(RandomBench(f"{name} in fp32", network), "eager")
    found: Found = {}
    for way in {"eager", WAYS[0]}:
        mine = gradient(bench, way)
        cosines = [torch.cosine_similarity(mine[site], exact[site], dim=0).item() for site in exact]
        found[way] = {"worst": min(cosines), "median": median(cosines)}
    return found


def repeats_exactly(bench: RandomBench) -> bool:
    """Whether the same ten steps from the same start give the same biases, bit for bit."""
    ends = []
    for _ in range(2):
        trainer = bench.trainer("threshold")
        trainer.train_until(10)
        ends.append(trainer.biases.state())
    return all(torch.equal(ends[0][site], ends[1][site]) for site in ends[0])


def scoring(bench: RandomBench) -> Found:
    """Scoring the sparse model, beside the matrix products alone that it needs."""
    plan, blocks, teacher = bench.plan("threshold"), bench.blocks("validation"), bench.teacher("validation")
    n_tokens = blocks.tokens.numel()
    with sparsified(bench.model, plan, bench.thresholds(plan)):
        taken = seconds(lambda: score(bench.model, blocks, teacher), 5, 2)
    return {"tokens_s": n_tokens / taken, "of_products": taken / products_seconds(bench, n_tokens)}


@torch.inference_mode()
def products_seconds(bench: RandomBench, n_tokens: int) -> float:
    """Seconds of the matrix products of a forward pass of all tokens, each with its own weights, and of the head."""
    inputs = {
        width: torch.randn(n_tokens, width, device=DEVICE, dtype=torch.bfloat16)
        for width in {site.in_features for site in bench.model.shape.sites.values()}
    }
    weights = [bench.model.linear(site).weight for site in bench.model.shape.sites]
    head = bench.model.head if DEVICE == "cuda" else bench.model.head.float()

    def logits(part: slice) -> Tensor:
        hidden = inputs[head.shape[1]][part]
        return torch.mm(hidden, head.T, out_dtype=torch.float32) if DEVICE == "cuda" else hidden.float() @ head.T

    def products() -> None:
        for weight in weights:
            inputs[weight.shape[1]] @ weight.T
        for part in token_chunks(inputs[head.shape[1]]):
            logits(part)

    return seconds(products, 5, 2)


def curves(bench: RandomBench) -> float:
    """Tokens a second of Fisher curves of all sites, one draw of labels."""
    plan = bench.plan("threshold")
    bench.fisher_curves(plan, range(8))  # warms up
    return 32 * LENGTH / timed(lambda: bench.fisher_curves(plan, range(8, 40)))


def selection(width: int) -> dict[str, float]:
    """Milliseconds to find the median magnitude of each of 1,024 rows, by several ways that agree exactly."""
    x = torch.randn(1024 if DEVICE == "cuda" else 16, width, device=DEVICE, dtype=torch.bfloat16).abs()
    k, ours = width // 2, kth_largest(DEVICE)
    wanted = torch.tensor(k, device=DEVICE)
    ways: dict[str, Callable[[], Tensor]] = {
        "topk": lambda: x.topk(k, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True),
        "kthvalue": lambda: x.kthvalue(width - k + 1, dim=-1, keepdim=True).values,
        "ours": lambda: ours(x, wanted),
    }
    expected = ways["topk"]()
    for name, way in ways.items():
        if not torch.equal(way(), expected):
            raise AssertionError(f"{name} found other magnitudes than topk")
    return {name: 1e3 * seconds(way, 15) for name, way in ways.items()}


def work(name: str) -> None:
    """A worker of ``sharing``: takes steps for as many seconds as it reads, and says how many."""
    trainer = RandomBench(name).trainer("threshold")
    with trainer.sparse_model():
        for _ in range(4):
            trainer.take_step()
        wait()
        print("ready", flush=True)
        for line in sys.stdin:
            until, steps = time.perf_counter() + float(line), 0
            while time.perf_counter() < until:
                trainer.take_step()
                wait()
                steps += 1
            print(steps, flush=True)


def sharing(name: str, spell: float, mps: bool) -> dict[int, float]:
    """Steps a second of all trials together, for 1, 2 and 4 that share a GPU, each a process.

    Args:
        name: of the shape.
        spell: seconds of each measurement.
        mps: by NVIDIA's multi-process service, whose daemon runs as long as this does.
    """
    environment = dict(os.environ)
    if mps:
        place = tempfile.mkdtemp(prefix="mps-")
        environment |= {"CUDA_MPS_PIPE_DIRECTORY": place, "CUDA_MPS_LOG_DIRECTORY": place}
        subprocess.run(["nvidia-cuda-mps-control", "-d"], env=environment, check=True, timeout=20)
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--worker", name]
    pipes: Found = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    workers = [subprocess.Popen(command, **pipes) for _ in range(4)]
    try:
        for worker in workers:
            if worker.stdout.readline().strip() != "ready":
                raise RuntimeError("a worker did not start")
        return {n: _steps_together(workers[:n], spell) / spell for n in (1, 2, 4)}
    finally:
        for worker in workers:
            worker.kill()
        if mps:
            quit_mps = {"input": "quit\n", "text": True, "env": environment, "timeout": 20}
            subprocess.run(["nvidia-cuda-mps-control"], check=False, **quit_mps)


def _steps_together(workers: list["subprocess.Popen[str]"], spell: float) -> int:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(f"{spell}\n")
        worker.stdin.flush()
    return sum(int(worker.stdout.readline()) for worker in workers if worker.stdout)


def measure_shape(name: str, top: float) -> Found:
    """All figures of one shape."""
    bench = RandomBench(name)
    bench.teacher("calibration")
    bench.thresholds(bench.plan("threshold"))
    found: Found = {}
    steps = [(way, rule) for way in WAYS for rule in ("threshold", "topk") if (way, rule) != ("eager", "topk")]
    found["steps"] = [step(bench, way, rule, top) for way, rule in [*steps, ("plain", "topk")]]
    found |= {"scoring": scoring(bench), "curves": curves(bench), "repeats_exactly": repeats_exactly(bench)}
    if name != "8B":  # in fp32 it fills a GPU
        found["gradient_cosine"] = exactness(name, bench)
    return found


def measure(shapes: list[str]) -> Found:
    """All figures."""
    found: Found = {"device": torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU", "ceilings": ceilings()}
    found["selection"] = {width: selection(width) for width in ((2048, 8192, 14336) if DEVICE == "cuda" else (64,))}
    found["shapes"] = {name: measure_shape(name, found["ceilings"]["tflops"]) for name in shapes}
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        found["sharing"] = {kind: _shared(shapes[0], kind == "with MPS") for kind in ("without MPS", "with MPS")}
    return found


def show(found: Found) -> None:
    """Print the tables."""
    top = found["ceilings"]
    print(f"{found['device']}: {top['tflops']:.0f} TFLOP/s of bf16 products, {top['copy_tb_s']:.2f} TB/s of copying")
    rows, others = [], []
    for name, of in found["shapes"].items():
        for row in of["steps"]:
            memory = f"{row['peak_gib']:.1f}" if row["peak_gib"] else ""
            figures = f"{row['ms']:.1f}", f"{row['of_ceiling']:.0%}", f"{row['tokens_s']:.0f}", f"{row['first_s']:.1f}"
            rows.append((name, row["way"], row["rule"], *figures, memory))
        scored = of["scoring"]
        rates = f"{scored['tokens_s']:.0f}", f"{scored['of_products']:.2f}", f"{of['curves']:.0f}"
        cosines = [f"{way} {c['worst']:.4f}, {c['median']:.4f}" for way, c in of.get("gradient_cosine", {}).items()]
        same = "yes" if of["repeats_exactly"] else "no"
        others.append((name, *rates, same, "; ".join(cosines)))
    print_table(
        f"A step of {BATCH} x {LENGTH} tokens, biases at all sites, {SPARSITY:.0%}",
        ["shape", "way", "rule", "ms", "of the ceiling", "tokens a second", "first, s", "peak GiB"],
        rows,
    )
    head = ["shape", "scoring, tokens a second", "of its products' time", "curves, tokens a second"]
    head += ["same twice", "gradient's cosine to fp32: worst site, median"]
    print_table("The rest", head, others)
    ways = ["topk", "kthvalue", "ours"]
    rows = [(width, *(f"{of[way]:.3f}" for way in ways)) for width, of in found["selection"].items()]
    print_table("k-th largest magnitude of 1,024 rows, ms", ["width", *ways], rows)
    for mps, of in found.get("sharing", {}).items():
        shared = of if isinstance(of, str) else ", ".join(f"{n}: {rate:.1f}" for n, rate in of.items())
        print(f"steps a second of all trials that share the GPU, {mps}: {shared}")


def _shared(name: str, mps: bool) -> dict[int, float] | str:
    try:
        return sharing(name, 4.0, mps)
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        return f"not measured: {error}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["1B", "8B"] if DEVICE == "cuda" else ["tiny"])
    parser.add_argument("--worker", choices=SHAPES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["SPON_CACHE"] = tempfile.mkdtemp(prefix="spon-gpu-")
    if options.worker:
        work(options.worker)
    else:
        show(measure(options.shapes))


if __name__ == "__main__":
    main()
