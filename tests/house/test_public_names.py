"""The names that others rely on exist, and each says what it does."""

import inspect

import pytest

import qlora_kernels as qk

STABLE = """
    quantize dequantize qlora_linear linear_cross_entropy dropout_mask QuantizedTensor Adapter
    QLoRAConfig prepare_model save_adapter load_adapter use_backend backends InputError
"""
MODULES = {
    "qlora_kernels": qk,
    "qlora_kernels.nn": qk.nn,
    "qlora_kernels.ops": qk.ops,
    "qlora_kernels.optim": qk.optim,
}
PUBLIC = [f"{module}.{name}" for module in MODULES for name in MODULES[module].__all__]


@pytest.mark.parametrize("name", STABLE.split())
def test_a_stable_name_exists(name: str):
    assert hasattr(qk, name)


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_name_has_a_docstring(path: str):
    module, _, name = path.rpartition(".")
    value = getattr(MODULES[module], name)
    if inspect.isclass(value) or inspect.isroutine(value):
        # A dataclass without a docstring gets its signature as one: that says nothing.
        assert value.__doc__ and not value.__doc__.startswith(f"{name}(")
