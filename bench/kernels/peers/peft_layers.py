"""peft's LoRA over bitsandbytes' base: what ours replaces, adapters in the case's dtype.

peft keeps adapters in float32 by default and casts x to it; in the case's dtype it is faster, so
that is what we compare with.
"""

import torch

from bench.kernels.case import Call
from bench.kernels.ops import qlora_linear as linear_op
from bench.kernels.peers import bitsandbytes_layers, import_refusal


def missing() -> str | None:
    return import_refusal("peft") or bitsandbytes_layers.missing()


def qlora_linear(p: linear_op.Problem) -> Call:
    from peft import LoraConfig, get_peft_model

    if p.adapter is None:
        return bitsandbytes_layers.qlora_linear(p)
    rank = p.adapter.rank
    alpha = round(p.adapter.scaling * rank)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"])
    base = torch.nn.Sequential(bitsandbytes_layers.layer(p))
    model = get_peft_model(base, config, autocast_adapter_dtype=False).train(p.case.trains)
    lora = model.base_model.model[0]
    leaves = {"dx": p.x}
    for name, module, values in (
        ("da", lora.lora_A, p.adapter.a),
        ("db", lora.lora_B, p.adapter.b),
    ):
        module["default"].to(p.x.device, p.x.dtype).weight.data.copy_(values)
        leaves[name] = module["default"].weight
    return linear_op.differentiated(lambda: lora(p.x), leaves, p)


qlora_linear_repeated = qlora_linear
