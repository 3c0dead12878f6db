"""The resident model: finds it, loads it frozen, and reads its sites."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from torch import Tensor, nn

from search_spaces.config import EMBEDDED, ModelConfig
from search_spaces.errors import NodeError, SponError
from search_spaces.sites import MODULES, ModelShape, Site, SiteShape, site_order
from trainables.activity import tell
from trainables.cache import cached, content_key, file_sha256
from trainables.demo import embedded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# transformers' models are imported where one is made: that takes four seconds, which a driver with a full cache saves.

_SHAPE = "shape.json"
_SITE_PATH = re.compile(rf"^.+\.(\d+)\.[a-z_]+\.({'|'.join(MODULES)})$")
_INFERENCE_TOKENS = {"cpu": 1024, "cuda": 16384}
_ROUNDING = 0.05  # of the largest logit; bfloat16 rounds less


@dataclass(frozen=True)
class ModelSource:
    """A model that exists: arguments of ``from_pretrained``, and a hash of what that loads."""

    location: str
    revision: str | None
    fingerprint: str
    trust_remote_code: bool

    @property
    def arguments(self) -> dict[str, object]:
        """Keywords shared by every ``from_pretrained`` call."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


@dataclass(frozen=True)
class ResidentModel:
    """A frozen causal LM in memory, dense outside ``sparsified`` blocks."""

    network: "PreTrainedModel"
    shape: ModelShape
    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    @property
    def head(self) -> Tensor:
        """Output embedding U of shape (vocabulary, hidden); logits = U h."""
        head: Tensor = self.network.get_output_embeddings().weight  # type: ignore[no-untyped-call]
        return head

    def batches(self, tokens: Tensor) -> list[slice]:
        """Slices of (blocks, seq) tokens for passes through the model without gradients."""
        blocks = max(1, _INFERENCE_TOKENS[self.device.type] // tokens.shape[1])
        return [slice(start, start + blocks) for start in range(0, len(tokens), blocks)]

    def linear(self, site: Site) -> nn.Linear:
        """The linear layer of a site."""
        layer = self.network.get_submodule(self.shape.sites[site].path)
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder's layers, found by the paths of their sites."""
        inside = {site.layer: shape.path for site, shape in self.shape.sites.items()}  # any one of a layer's sites
        paths = (inside[layer].partition(f".{layer}.")[0] + f".{layer}" for layer in range(self.shape.num_layers))
        return [self.network.get_submodule(path) for path in paths]

    def check_dense(self) -> None:
        """Refuse to continue while a site is sparsified or biased, because the dense model is measured next.

        Raises:
            RuntimeError: naming the site; a fault of the code, not of the user.
        """
        for site in self.shape.sites:
            if self.is_changed(site):
                raise RuntimeError(f"the model must be dense here, but {site} is changed")

    def is_changed(self, site: Site) -> bool:
        """Whether a site computes something other than its layer, or has hooks."""
        layer = self.linear(site)
        return bool(hasattr(layer, "change") or layer._forward_pre_hooks or layer._forward_hooks)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Final hidden states h, after the last norm.

        Args:
            tokens: (batch, seq) token ids on the model's device.

        Returns:
            (batch, seq, hidden) in the model's dtype.
        """
        decoder = self.network.get_decoder()  # type: ignore[no-untyped-call]
        states: Tensor = decoder(input_ids=tokens, use_cache=False).last_hidden_state
        return states


def find_model(config: ModelConfig) -> ModelSource:
    """Find the model of a config, before anything large is read.

    Raises:
        SponError: if the model is gated, missing, or cannot be reached.
    """
    local = embedded.model_dir() if config.source == EMBEDDED else Path(config.source)
    if local.is_dir():
        if config.revision is not None:
            raise SponError(f"a local model must have no revision, but got {config.revision!r} (at model.revision)")
        return ModelSource(str(local), None, _directory_fingerprint(local), config.trust_remote_code)
    commit = _hub_commit(config)
    return ModelSource(config.source, commit, f"{config.source}@{commit}", config.trust_remote_code)


def read_shape(source: ModelSource) -> ModelShape:
    """Sites and widths from the architecture alone, without reading weights. The result is cached.

    Raises:
        SponError: if the config cannot be read or the model is not of the Llama layout.
    """
    key = content_key(source.fingerprint, source.trust_remote_code, version("transformers"))
    kept = json.loads((cached("shapes", key, lambda directory: _keep_shape(source, directory)) / _SHAPE).read_text())
    sites = {Site.parse(name): SiteShape(*shape) for name, shape in kept.pop("sites").items()}
    return ModelShape(**kept, sites=sites)


def _keep_shape(source: ModelSource, directory: Path) -> None:
    shape = _architecture(source)
    sites = {str(site): astuple(one) for site, one in shape.sites.items()}
    (directory / _SHAPE).write_text(json.dumps({**vars(shape), "sites": sites}))


def _architecture(source: ModelSource) -> ModelShape:
    from transformers import AutoConfig, AutoModelForCausalLM

    with _readable(source):
        config = AutoConfig.from_pretrained(source.location, **source.arguments)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=source.trust_remote_code
        )
    return shape_of(network, source.location)


def load_tokenizer(source: ModelSource) -> "PreTrainedTokenizerBase":
    """The model's tokenizer.

    Raises:
        SponError: if its files are missing.
    """
    from transformers import AutoTokenizer

    with _readable(source):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source.location, **source.arguments)
    return tokenizer


def check_device(device: str) -> None:
    """Refuse a missing device before anything slow begins.

    Raises:
        NodeError: if ``device`` is ``cuda`` and there is no CUDA device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise NodeError("a trial that asks for a GPU must find one, but CUDA is not available (at resources)")


def load_model(source: ModelSource, dtype: str, device: str) -> ResidentModel:
    """Load the weights, frozen and in evaluation mode.

    Args:
        source: from ``find_model``.
        dtype: of the weights, ``float32`` or ``bfloat16``.
        device: ``cpu`` or ``cuda``.

    Raises:
        SponError: if there is no such device, the files are missing, broken, incomplete or of another layout, or the
            logits are not U h.
    """
    check_device(device)
    tell("loading the model")
    from transformers import AutoModelForCausalLM

    from trainables.model.attention import attention_for

    with _readable(source):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.location,
            dtype=getattr(torch, dtype),
            attn_implementation=attention_for(device, dtype),
            output_loading_info=True,
            **source.arguments,
        )
        network, report = loaded
    if missing := sorted(report["missing_keys"]):  # transformers would continue with random weights
        raise SponError(
            f"the model's files must hold every weight, but {missing[0]} and {len(missing) - 1} more are not in "
            f"{source.location} (at model.source)"
        )
    network.to(device).eval().requires_grad_(False)
    resident = ResidentModel(network, shape_of(network, source.location), source.fingerprint)
    _check_logits(resident, source.location)
    return resident


def shape_of(network: "PreTrainedModel", name: str) -> ModelShape:
    """Read the sites of a model, on any device."""
    _check_head(network, name)
    found: dict[Site, SiteShape] = {}
    for path, layer in network.named_modules():
        match = _SITE_PATH.match(path)
        if not match or not isinstance(layer, nn.Linear):
            continue
        site = Site(int(match[1]), match[2])  # type: ignore[arg-type]  # the pattern admits MODULES only
        if site in found:
            raise SponError(f"a layer must have one linear of each name, but {name} has two {site} (at model.source)")
        found[site] = SiteShape(path, layer.in_features, layer.out_features)
    config = network.config
    depth = config.num_hidden_layers
    if {site.layer for site in found} != set(range(depth)) or not any(s.module == "down_proj" for s in found):
        raise SponError(
            f"a model must be of the Llama layout (decoder layers with {', '.join(MODULES)}), "
            f"but {name} of type {config.model_type!r} is not (at model.source)"
        )
    return ModelShape(
        num_layers=depth,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        sites={site: found[site] for site in sorted(found, key=site_order)},
    )


def _check_head(network: "PreTrainedModel", name: str) -> None:
    """Refuse, by name, heads for which logits = U h does not hold."""
    for key in ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier"):
        if getattr(network.config, key, None) not in (None, 1, 1.0):
            raise SponError(f"a model must have a plain linear head, but {name} has {key} (at model.source)")
    head = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    if getattr(head, "bias", None) is not None:
        raise SponError(f"a model must have a plain linear head, but that of {name} has a bias (at model.source)")


@torch.no_grad()
def _check_logits(model: ResidentModel, name: str) -> None:
    """Refuse a model whose logits for two tokens are not U h, because of a key or code that nothing here knows."""
    tokens = torch.tensor([[0, 1]], device=model.device)
    logits = model.network(input_ids=tokens, use_cache=False).logits
    product = model.hidden(tokens).to(model.head.dtype) @ model.head.T
    if logits.shape != product.shape or (logits.float() - product.float()).abs().max() > _ROUNDING * logits.abs().max():
        raise SponError(
            f"a model must have a plain linear head, but the logits of {name} are not its output embedding times its "
            "last hidden states (at model.source)"
        )


def _directory_fingerprint(directory: Path) -> str:
    """Name of a local model's directory, and a hash of every file that a model or tokenizer is read from, whole.

    These include the model's own code.
    """
    suffixes = (".json", ".txt", ".model", ".safetensors", ".bin", ".py", ".tiktoken")
    files = sorted(file for file in directory.iterdir() if file.suffix in suffixes)
    hashes = "".join(f"{file.name}:{file_sha256(file)}\n" for file in files)
    return f"{directory.name}@{hashlib.sha256(hashes.encode()).hexdigest()[:16]}"


def _hub_commit(config: ModelConfig) -> str:
    """The commit that an id and revision resolve to, from the hub or its local cache."""
    name = config.source
    try:
        path = hf_hub_download(name, "config.json", revision=config.revision)
    except GatedRepoError as error:
        raise SponError(
            f"the model must be open to you, but {name} is gated: accept its licence on its page, then `hf auth login`"
            " (at model.source)"
        ) from error
    except RepositoryNotFoundError as error:
        raise SponError(
            f"a model must be a local directory or a hub id, but {name!r} is neither; "
            "if it is private, `hf auth login` (at model.source)"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        fault = NodeError if isinstance(error, HfHubHTTPError | OSError) else SponError
        raise fault(
            f"the model must be a directory here or reachable on {constants.ENDPOINT}, but config.json of {name!r} "
            f"is neither: {' '.join(str(error).split())[:160]} (at model.source)"
        ) from error
    return Path(path).parent.name


@contextmanager
def _readable(source: ModelSource) -> Iterator[None]:
    """Turn what ``from_pretrained`` raises on missing or broken files into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:  # RuntimeError: of another size
        reason = " ".join(str(error).split())[:200]
        unreachable = isinstance(error.__cause__, LocalEntryNotFoundError | ConnectionError)
        fault = NodeError if unreachable or getattr(error, "errno", None) else SponError
        raise fault(f"the model must load from {source.location}, but {reason} (at model.source)") from error
