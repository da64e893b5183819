"""`qlora_linear_group` over layers that stay as they are, again and again: steps of generation.

    y_i = g_i * (x W_i^T + s_i (x A_i^T) B_i^T) + bias_i

What the eager way looks at in each call is looked at once, and the outputs are made once too. The
kernels still read anew, each time, where the tensors lie.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from qlora_kernels import native
from qlora_kernels.ops.qlora_linear import eager, native_kernel
from qlora_kernels.ops.qlora_linear.op import Linear, output_scale_of


def refuses(linear: Linear, x: torch.Tensor) -> str | None:
    """Takes what goes the eager way, and magnitudes, where nothing drops; x: one like those of the
    calls.
    """
    if not (eager.nobody_watches() and eager.may_run()):
        return "somebody watches the calls, or has forced another backend"
    layer, adapter = linear.layer, linear.adapter
    if adapter is not None and adapter.dropout:
        return "the adapter drops"
    refusal = native_kernel.refuses(x, layer.base, adapter, None)
    if refusal is not None:
        return refusal
    tensors = [tensor for tensor in (*layer.tensors, layer.bias) if tensor is not None]
    if not (eager.takes_layer(layer) and all(t.is_cpu and t.is_contiguous() for t in tensors)):
        return "a tensor is not a plain, contiguous one on the CPU"
    return None


class RepeatedGroup:
    """The call: x [1, k] -> outputs [1, n_i], which it fills, of x's dtype.

    Bias and output scale are those of the time when it was made.
    """

    def __init__(self, linears: Sequence[Linear], outputs: Sequence[torch.Tensor]) -> None:
        """linears: none that `refuses`; outputs: contiguous, of the dtype that x will have."""
        layers = [replace(m.layer, output_scale=output_scale_of(m)) for m in linears]
        self._views = native_kernel.views(layers, outputs)
        self._forward = native.cpu().qlora_linear_forward

    def __call__(self, x: torch.Tensor) -> None:
        """Fill the outputs."""
        self._forward(x, self._views, torch.get_num_threads())
