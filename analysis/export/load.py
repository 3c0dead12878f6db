"""Apply exported SPON biases and TEAL sparsity to a Hugging Face causal LM: y = W S(x) + b.

    from spon import load_spon

    handle = load_spon(model, "DIR")  # or `with load_spon(model, "DIR"):`
    model.generate(...)
    handle.remove()  # dense again

This file stands alone: it needs torch, transformers and safetensors, and every export contains it as ``spon.py``.
On a CPU each generated token reads only the weights that it needs, through the product in ``spon.c`` beside this file
(``_SkipZeros``). On a GPU, in a prefill and in batches zeros are multiplied like any number.
"""

import ctypes
import functools
import inspect
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

SCHEMA_VERSION = 2
CONFIG, BIASES = "spon_config.json", "spon.safetensors"
RULES, TOKENS = ("topk", "threshold"), ("all", "second_half")
ABSORBED_BY = "spon_absorbed"
"""Config key of a model with biases folded in. Its value is the identity of their trial."""
_ATTACHED = "_spon_attached"


@dataclass(frozen=True)
class SiteSpec:
    """Sparsity and bias of one linear layer.

    Attributes:
        in_features, out_features: widths of the layer.
        sparsity: fraction of the input's entries to zero; 0 leaves the input alone.
        threshold: smaller |x| become zero; None if the input is left alone, and under the rule ``topk``.
        bias: whether the layer has a SPON bias.
    """

    in_features: int
    out_features: int
    sparsity: float
    threshold: float | None
    bias: bool


@dataclass(frozen=True)
class SponSpec:
    """Content of ``spon_config.json``.

    Attributes:
        base_model: ``source``, ``revision``, ``fingerprint`` and ``num_layers`` of the model that the export fits.
        trial: ``identity``, ``name``, ``allocation``, ``plan`` and ``dtype`` of the trial that trained the biases.
        form: of the vectors in the export, always ``output_bias``.
        trained_form: form during training; ``input_vector`` vectors a are exported as W a.
        absorbed: whether the biases are in the weights of the model beside this file.
        rule: ``topk`` keeps the largest |x| of a token, ``threshold`` keeps |x| at or above a frozen value.
        tokens: which positions are sparsified, ``all`` or ``second_half``.
        sites: by module path.
    """

    schema_version: int
    base_model: dict[str, Any]
    trial: dict[str, str]
    form: str
    trained_form: str
    absorbed: bool
    rule: str
    tokens: str
    sites: dict[str, SiteSpec]


class SponHandle(ExitStack):
    """Restores the model, by ``remove`` or at the end of a ``with`` block."""

    def remove(self) -> None:
        """Restore the model. A second call does nothing."""
        self.close()


def load_spon(model: PreTrainedModel, directory: str | Path, skip_zeros: bool = True) -> SponHandle:
    """Sparsify the inputs and add the biases of every site of an export, or change nothing on error.

    With a KV cache ``second_half`` means the second half of the prefill and every token decoded after it. A prefill in
    several calls is refused, because its half is unknown until the last call.

    Args:
        model: a causal LM, the base model of the export (or, for absorbed biases, the model beside it).
        directory: the export.
        skip_zeros: generate faster on a CPU with ``spon.c`` and a C compiler, at the price of a second copy of the
            weights of sparse layers. Those weights must not change while loaded. Results differ by rounding.

    Raises:
        ValueError: if the export is broken or does not fit the model exactly.
    """
    directory = Path(directory)
    spec = read_spec(directory)
    biases = {} if spec.absorbed else _read(directory / BIASES, load_file)
    layers = _fitting_layers(model, spec, biases)
    policy, handle = _TokenPolicy(), SponHandle()
    setattr(model, _ATTACHED, True)
    handle.callback(delattr, model, _ATTACHED)
    if spec.tokens != "all":
        decoder = model.get_decoder()  # type: ignore[no-untyped-call]
        handle.callback(decoder.register_forward_pre_hook(policy.observe, with_kwargs=True).remove)
    for path, layer in layers.items():
        if spec.sites[path].sparsity:
            handle.callback(layer.register_forward_pre_hook(_sparsifier(spec.sites[path], policy)).remove)
            if skip_zeros and (product := _product_for(layer)):
                handle.callback(_SkipZeros(layer, product).remove)
        if path in biases:
            handle.callback(_BiasInProduct(layer, biases[path], policy).remove)
    return handle


def read_spec(directory: Path) -> SponSpec:
    """Read ``spon_config.json``, strictly.

    Raises:
        ValueError: if it is missing, has another schema version, or has extra or missing keys.
    """
    raw = json.loads(_read(directory / CONFIG, Path.read_text))
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(f"an export must have schema version {SCHEMA_VERSION}, but got {version} (at {directory})")
    try:
        spec = SponSpec(**raw | {"sites": {path: SiteSpec(**site) for path, site in raw["sites"].items()}})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{CONFIG} must have exactly its own keys, but {error} (at {directory})") from error
    if spec.rule not in RULES or spec.tokens not in TOKENS or spec.form != "output_bias":
        got = f"{spec.rule}, {spec.tokens}, {spec.form}"
        raise ValueError(f"rule, tokens and form must be of {RULES}, {TOKENS} and output_bias, but got {got}")
    for path, site in spec.sites.items():
        if (site.threshold is None) == (spec.rule == "threshold" and site.sparsity > 0):
            got = f"{path} has sparsity {site.sparsity}, threshold {site.threshold}"
            raise ValueError(f"exactly the sparse sites of the rule threshold must have a threshold, but {got}")
    return spec


def _read(file: Path, reader: Callable[[Path], Any]) -> Any:
    if not file.is_file():
        raise ValueError(f"an export must hold {file.name}, but it is missing (at {file.parent})")
    try:
        return reader(file)
    except SafetensorError as error:
        raise ValueError(f"{file.name} must be whole, but {error} (at {file.parent})") from error


def _fitting_layers(model: PreTrainedModel, spec: SponSpec, biases: dict[str, Tensor]) -> dict[str, nn.Linear]:
    """Return the linear layer of each site, after a check that everything fits."""
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"a model must be a transformers PreTrainedModel, but got {type(model).__name__}")
    if hasattr(model, _ATTACHED):
        raise ValueError("a model must have one export at a time, but one is attached; remove it first")
    absorbed, expected = getattr(model.config, ABSORBED_BY, None), spec.trial["identity"] if spec.absorbed else None
    if absorbed != expected:
        raise ValueError(f"this export is for a model with absorbed biases {expected}, but this one has {absorbed}")
    depth, layers = model.config.get_text_config().num_hidden_layers, spec.base_model["num_layers"]
    if depth != layers:
        raise ValueError(f"this export is for a model of {layers} layers, but this one has {depth}")
    want = {path: (site.out_features,) for path, site in spec.sites.items() if site.bias and not spec.absorbed}
    have = {path: tuple(vector.shape) for path, vector in biases.items()}
    if want != have:
        odd = sorted(path for path in want.keys() | have.keys() if want.get(path) != have.get(path))
        raise ValueError(f"{BIASES} must hold the biases of {CONFIG}, but they differ at {', '.join(odd)}")
    return {path: _linear(model, path, site) for path, site in spec.sites.items()}


def _linear(model: PreTrainedModel, path: str, site: SiteSpec) -> nn.Linear:
    try:
        layer = model.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"every site must be in the model, but {path} is not") from error
    want = site.in_features, site.out_features
    have = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else type(layer).__name__
    if not isinstance(layer, nn.Linear) or have != want:
        raise ValueError(f"{path} must be a linear layer of (in, out) = {want}, but it is {have}")
    return layer


def _sparsifier(site: SiteSpec, policy: "_TokenPolicy") -> Callable[..., tuple[Tensor, ...]]:
    def sparsify(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        sparse = keep_largest(x, site.sparsity) if site.threshold is None else keep_above(x, site.threshold)
        return (sparse if policy.dense is None else torch.where(policy.dense[..., None], x, sparse), *inputs[1:])

    return sparsify


class _BiasInProduct:
    """Makes b the layer's bias, so that W S(x) + b is rounded once. The layer's own bias is added afterwards."""

    def __init__(self, layer: nn.Linear, bias: Tensor, policy: "_TokenPolicy") -> None:
        self._layer, self._own, self._policy = layer, layer.bias, policy
        layer.bias = nn.Parameter(bias.to(layer.weight.device, layer.weight.dtype), requires_grad=False)
        self._hook = layer.register_forward_hook(self._finish)

    def _finish(self, layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        dense = self._policy.dense
        sparse = output if self._own is None else output + self._own
        if dense is None:
            return sparse
        return torch.where(dense[..., None], F.linear(inputs[0], layer.weight, self._own), sparse)

    def remove(self) -> None:
        """Restore the layer's own bias."""
        self._hook.remove()
        self._layer.bias = self._own


_Product = Callable[..., None]


def _product_for(layer: nn.Linear) -> _Product | None:
    """Return the compiled product for a layer's weights, if they are on a CPU and a C compiler is installed."""
    weight = layer.weight
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16) or "forward" in vars(layer):
        return None
    return _compile(weight.dtype == torch.bfloat16)


@functools.cache
def _compile(bf16: bool) -> _Product | None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    source = Path(__file__).with_suffix(".c")
    if compiler is None or not source.is_file():
        return None
    place = Path(tempfile.mkdtemp(prefix="spon-"))
    flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", *(["-DBF16"] if bf16 else [])]
    try:
        command = [compiler, *flags, str(source), "-o", "product.so"]
        subprocess.run(command, cwd=place, check=True, capture_output=True)
        product: _Product = ctypes.CDLL(str(place / "product.so")).product
    except (OSError, subprocess.CalledProcessError):  # for example without OpenMP
        return None
    finally:
        shutil.rmtree(place)
    product.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_long] * 2 + [ctypes.c_int]  # type: ignore[attr-defined]
    product.restype = None  # type: ignore[attr-defined]
    return product


class _SkipZeros:
    """Computes the product of a single token without the columns of W that meet its zeros."""

    def __init__(self, layer: nn.Linear, product: _Product) -> None:
        self._layer, self._product = layer, product
        self._columns = layer.weight.detach().T.contiguous()
        layer.forward = self._forward  # type: ignore[method-assign, assignment]

    def _forward(self, x: Tensor) -> Tensor:
        layer, columns = self._layer, self._columns
        if x.numel() != len(columns) or x.requires_grad or (x.dtype, x.device) != (columns.dtype, columns.device):
            return F.linear(x, layer.weight, layer.bias)
        n_in, n_out = columns.shape
        x, y = x.contiguous(), x.new_empty(*x.shape[:-1], n_out)
        scratch = torch.empty(n_out, dtype=torch.float32, device="cpu")  # whatever torch's defaults are
        kept = torch.empty(n_in, dtype=torch.int32, device="cpu")
        bias = None if layer.bias is None else layer.bias.data_ptr()
        threads = max(1, min(torch.get_num_threads(), n_out // 64))
        pointers = (tensor.data_ptr() for tensor in (y, scratch, kept))
        self._product(x.data_ptr(), columns.data_ptr(), bias, *pointers, n_in, n_out, threads)
        return y

    def remove(self) -> None:
        """Restore the layer's own product."""
        del self._layer.forward


def keep_largest(x: Tensor, sparsity: float) -> Tensor:
    """Apply S(x) of the rule ``topk``: zero entries below the k-th largest |x| of their token, and keep ties with it.

    Args:
        x: (..., width).
        sparsity: fraction to zero, in [0, 1).
    """
    magnitude = x.abs()
    kept = max(1, int(x.shape[-1] * (1 - sparsity) + 1e-9))  # 1e-9 undoes binary rounding
    smallest_kept = magnitude.topk(kept, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    return x * (magnitude >= smallest_kept)


def keep_above(x: Tensor, threshold: float) -> Tensor:
    """Apply S(x) of the rule ``threshold``: zero entries with |x| below it.

    ``hardshrink`` zeroes |x| <= its argument, so it gets the number just below the threshold.
    """
    return F.hardshrink(x, _just_below(threshold, x.dtype))


@functools.cache
def _just_below(threshold: float, dtype: torch.dtype) -> float:
    exact = torch.tensor(threshold, dtype=dtype, device="cpu")
    return torch.nextafter(exact, torch.zeros_like(exact)).item()


class _TokenPolicy:
    """Tracks every call of the decoder under ``second_half`` and decides which positions stay dense.

    Attributes:
        dense: (batch or 1, seq) bool of the current call; None if every position is sparsified.
    """

    def __init__(self) -> None:
        self.dense: Tensor | None = None

    def observe(self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compute ``dense`` from the arguments of the decoder's forward."""
        given = inspect.signature(decoder.forward).bind_partial(*args, **kwargs).arguments
        tokens = given["inputs_embeds"] if given.get("input_ids") is None else given["input_ids"]
        cache, positions = given.get("past_key_values"), given.get("position_ids")
        past = 0 if cache is None else int(cache.get_seq_length())
        if positions is None:  # as the models themselves do
            positions = torch.arange(past, past + tokens.shape[1], device=tokens.device)[None]
        self.dense = self._dense(positions, past)

    def _dense(self, positions: Tensor, past: int) -> Tensor | None:
        if past == 0:
            first, last = positions.aminmax(dim=-1, keepdim=True)
            return positions - first < (last - first + 1) // 2
        if positions.shape[-1] == 1:
            return None
        raise ValueError(
            f"second_half must see the prefill in one call, but {positions.shape[-1]} tokens came after {past} cached"
        )
