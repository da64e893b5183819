"""opcheck, and torch.compile in one graph, where Triton is the chosen backend."""

from collections.abc import Iterator

import pytest
import torch
from torch.utils._pytree import tree_map_only

import qlora_kernels as qk
from kernels import trained_block
from kernels.trained_block import block, inputs, trained
from ops import test_registration as registration
from qlora_kernels.gpu.availability import interpreting

KINDS = tuple(trained_block.KINDS)
REFUSED = ("quantize searched", "dequantize plain")  # what Triton has no kernel for
CALLS = {name: call for name, call in registration.CALLS.items() if name not in REFUSED}
if interpreting():  # one of each operator, and the block that has all but dropout of x
    CALLS = {str(operator): (operator, arguments) for operator, arguments in CALLS.values()}
    KINDS = ("dora with dropout",)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("call", CALLS)
def test_opcheck(device: torch.device, call: str):
    operator, arguments = CALLS[call]

    def placed(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(device).requires_grad_(tensor.requires_grad)

    torch.library.opcheck(operator, tree_map_only(torch.Tensor, placed, arguments))


# torch's own import of Inductor warns, once in a process.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_is_one_graph(device: torch.device, kind: str):
    """Grouped layers, dropout and DoRA: the compiled step has the gradients of the eager one."""
    module, (x, head, labels) = block(kind, device), inputs(device)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return qk.linear_cross_entropy(module(x), head, labels)

    def gradients(call: object) -> list[torch.Tensor]:
        torch.manual_seed(7)  # of the masks
        found = torch.autograd.grad(call(x), trained(module))
        return list(found)

    eager = gradients(loss)
    # Under the interpreter nothing is gained by generating code for what stands between our ops.
    backend = "aot_eager" if interpreting() else "inductor"
    compiled = gradients(torch.compile(loss, fullgraph=True, backend=backend))
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(one, other)
