"""Whether what is about to be timed computes the right thing: the one error rule.

The rule pools a list of cases; one large case alone has only the rule's bound for single cases.
So a backend first qualifies on the op's small cases, pooled, and then each case that is timed is
held to the bound.
"""

from collections.abc import Iterable, Mapping
from time import perf_counter

import torch

from bench.kernels.case import Call, Case, Expected
from qlora_kernels.testing.error_rule import ErrorRule

PASSED = "passed"

Answer = tuple[str, Mapping[str, torch.Tensor], Mapping[str, Expected]]


def checked(case: Case, call: Call, expected: Mapping[str, Expected]) -> tuple[str, float]:
    """`passed`, or what is wrong in one line, and the milliseconds that the call took.

    A peer answers for the outputs that it has.
    """
    with torch.set_grad_enabled(case.trains):
        start = perf_counter()
        outputs = call()
        took_ms = 1e3 * (perf_counter() - start)
    return _verdict(ErrorRule(case.torch_dtype), [(str(case), outputs, expected)], False), took_ms


def qualify(dtype: torch.dtype, answers: Iterable[Answer]) -> str:
    """The same over a list of cases, by the pooled rule."""
    return _verdict(ErrorRule(dtype), answers, pooled=True)


def _verdict(rule: ErrorRule, answers: Iterable[Answer], pooled: bool) -> str:
    judge = rule.check_each  # codecs are compared bit for bit and have nothing to pool
    for name, outputs, expected in answers:
        for output, ours in outputs.items():
            wanted = expected[output]
            if wanted.plain is None:
                if not torch.equal(ours, wanted.truth):
                    return f"{name} {output}: not the same bits"
                continue
            sampled = ours if wanted.rows is None else ours[wanted.rows]
            rule.add(name, output, sampled.detach(), wanted.plain, wanted.truth)
            judge = rule.check if pooled else rule.check_each
    try:
        judge()
    except AssertionError as error:
        return str(error).replace("\n", "; ")
    return PASSED
