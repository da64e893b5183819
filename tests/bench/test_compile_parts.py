"""Parts of a kernel count as often as they run: alternatives by accesses, nests by the rank."""

import pytest

from bench.compile_gate.bound import Work, bound
from bench.compile_gate.machines import MACHINES
from bench.compile_gate.parts import alternative, norm_tile
from bench.compile_gate.sass import Body, Instruction


def code(*lines: str) -> str:
    """Machine code as nvdisasm prints it; `label:` starts a loop, `back label` ends it."""
    printed = []
    for i, line in enumerate(lines):
        if line.endswith(":"):
            printed.append(f".L_x_{line}")
        else:
            name = f"BRA `(.L_x_{line[5:]})" if line.startswith("back ") else f"{line} R1, R2"
            printed.append(f"  /*{i:04x}*/ {name} ;")
    return "\n".join(printed)


def test_an_alternative_is_the_longest_loop_with_its_accesses():
    text = code(
        "1:", "LDG.E.128", "LDG.E", "FADD", "STG.E.64", "back 1",
        "2:", "LDG.E.128", "FADD", "FADD", "FADD", "STG.E.64", "back 2",
        "3:", "LDG.E.128", "LDG.E.128", "STG.E.64", "back 3",
    )  # fmt: skip
    found = alternative(text, {"LDG128": 1, "STG64": 1})
    assert [i.opcode for i in found.instructions] == ["LDG", "FADD", "FADD", "FADD", "STG", "BRA"]
    with pytest.raises(RuntimeError, match=r"a loop should have \{'LDG128': 3\}, none has"):
        alternative(text, {"LDG128": 3})


def test_a_tile_of_norms_runs_its_loops_as_often_as_ranks_ask():
    text = code(
        "1:", "PRMT",  # a tile: decoded once
        "2:", "SHF",  # ranks that are staged together
        "3:", "LDG.E", "STS", "back 3",
        "4:", "FFMA", "FFMA", "LDS", "back 4",
        "back 2",
        "FMUL", "back 1",
    )  # fmt: skip
    for rank in (4, 16):
        passes = rank // 4  # of either loop
        body = norm_tile(text, rank)
        assert body.count("PRMT", "SHF", "FMUL") == 3
        assert (body.count("FFMA"), body.count("STS")) == (2 * passes, passes)
        assert body.count("BRA") == 2 + 2 * passes


def test_multiply_adds_of_float32_are_a_roof():
    """Half of the instructions multiply: half of that roof, where memory is not asked for more."""
    body = Body((Instruction("FFMA", ""), Instruction("IADD3", "")) * 64, is_loop=True)
    for architecture, share in ((90, 0.5), (80, 1.0)):  # an A100 multiplies half as fast
        found = bound(Work(body, 8, 64, 0, float_multiply_adds=64 * 8 * 32), MACHINES[architecture])
        assert (found.roof, round(found.share, 2)) == ("float32", share)
