"""Which dtype `auto` becomes, and who says why."""

import pytest
import torch

from search_spaces.config import SpaceConfig
from trainables.model.dtype import decide_dtype, emulation_warning, multiplies_bf16, with_dtype


def space(dtype: str = "auto", **resources: float) -> SpaceConfig:
    return SpaceConfig.model_validate(
        {
            "name": "s",
            "model": {"dtype": dtype},
            "sparsity": [0.5],
            "allocations": ["UNIF-ALL"],
            "resources": resources,
        }
    )


@pytest.fixture(params=[True, False], ids=["with bf16 instructions", "without"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr("trainables.model.dtype.multiplies_bf16", lambda device: request.param)
    return bool(request.param)


def test_a_cpu_gets_bf16_exactly_if_it_multiplies_it(native: bool) -> None:
    decided, line = with_dtype(space())
    assert decided.model.dtype == ("bfloat16" if native else "float32")
    assert line.startswith(f"weights in {decided.model.dtype}: this CPU has {'' if native else 'no '}bfloat16")


def test_trials_on_a_gpu_get_bf16_whatever_the_driver_runs_on(native: bool) -> None:
    assert with_dtype(space(gpus_per_trial=1))[0].model.dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_the_user_says_stays(native: bool, dtype: str) -> None:
    given = space(dtype)
    assert with_dtype(given) == (given, f"weights in {dtype}, as the space says")


def test_a_sweep_goes_on_in_the_dtype_that_it_began_with(native: bool) -> None:
    began = space("float32" if native else "bfloat16")
    decided, line = with_dtype(space(), began)
    assert decided == began
    assert "the sweep began with it" in line


def test_only_a_node_that_emulates_bf16_warns(native: bool) -> None:
    assert emulation_warning("float32", "cpu") is None
    warning = emulation_warning("bfloat16", "cpu")
    assert warning is None if native else "no bfloat16 instructions" in str(warning)


@pytest.mark.parametrize(
    ("torch_says", "has", "native"),
    [
        ("AVX512", {"avx512_bf16": True}, True),
        ("AVX512", {"amx_bf16": True}, True),
        ("AVX512", {"avx512_bf16": False, "amx_bf16": False}, False),  # emulated, at a fifth of the speed of float32
        ("AVX2", {"avx512_bf16": True}, False),  # torch is held to AVX2
        ("DEFAULT", {}, False),
    ],
)
def test_an_x86_needs_the_instructions_and_a_torch_that_uses_them(
    torch_says: str, has: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: torch_says)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert multiplies_bf16("cpu") is native
    assert decide_dtype("cpu").dtype == ("bfloat16" if native else "float32")
