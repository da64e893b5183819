"""The compile gate reads machine code rightly, and says in one line what got worse.

The machine code is that of two toy kernels (tests/fixtures/sass/make.py): `decode` has a loop that
the assembler unrolled four times, `dot` a loop around each architecture's matrix instruction.
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.compile_gate import budgets, command, cuda_rows, limits, told
from bench.compile_gate.bound import (
    Work,
    bound,
    occupancy,
    pipe_clocks,
    sass_beyond_memory,
    sass_per_weight,
)
from bench.compile_gate.compiled import Row, tensor_memory_multiply_adds
from bench.compile_gate.machines import MACHINES
from bench.compile_gate.ptx import unrolled
from bench.compile_gate.sass import Body, Instruction, inner_body
from qlora_kernels.gpu.compile_case import bytes_per_weight

FOLDER = Path(__file__).parents[1] / "fixtures/sass"
ROW = Row("qlora_linear", "forward", "nf4", "sm_90", 128, 0, 4096, 0.5, "wgmma 64x128x16",
          2.0, "128x4", 0.9, "tensor", "issue")  # fmt: skip
LIMIT = {name: getattr(ROW, name) for name in (*limits.HIGHER_IS_WORSE, "bound_share")}
LIMIT["matrix_instruction"] = ROW.matrix_instruction


def body(name: str) -> Body:
    return inner_body((FOLDER / f"{name}.txt").read_text())


@pytest.mark.parametrize(
    ("name", "count", "instruction"),
    [
        ("dot_sm_80", 4, "mma.sync 16816"),
        ("dot_sm_90", 2, "wgmma 64x16x16, A in registers"),
        ("dot_sm_100", 2, "tcgen05"),
        ("decode_sm_80", 0, ""),
    ],
)
def test_the_loop_around_the_matrix_instruction_is_found(name: str, count: int, instruction: str):
    found = body(name)
    assert found.is_loop
    assert (found.num_matrix, found.matrix_instruction) == (count, instruction)


def test_widths_of_loads_are_bits_per_lane():
    assert body("dot_sm_80").load_widths == {128: 1, 64: 1}
    assert body("decode_sm_80").load_widths == {64: 4, 32: 4}
    assert Instruction("LDG.E.U8.CONSTANT", "R1, [R2]").global_bits == 8
    assert Instruction("LDS.128", "R1, [R2]").global_bits == 0


def test_a_mark_names_the_loop():
    text = "\n".join(
        [".L_x_0:", "/*0000*/ STG.E [R2.64], R1 ;", "/*0010*/ BRA `(.L_x_0);",
         ".L_x_1:", "/*0020*/ LDG.E R1, [R2.64] ;", ".L_x_2:", "/*0030*/ LDGSTS [R1], [R2.64] ;",
         "/*0040*/ BRA `(.L_x_2);", "/*0050*/ BRA `(.L_x_1);", "/*0060*/ EXIT ;"]
    )  # fmt: skip
    assert [i.opcode for i in inner_body(text, "LDGSTS").instructions] == ["LDGSTS", "BRA"]


def test_arithmetic_is_what_is_left_without_loads_and_stores():
    work = straight("LDS.64", "PRMT", "FMUL", "STG.E.128", "DEPBAR.LE", "BRA", weights=128)
    assert (sass_per_weight(work), sass_beyond_memory(work)) == (6.0, 3.0)


def test_no_nvcc_is_a_reason_and_a_stale_module_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cuda_rows, "MODULE", tmp_path / "_cuda.so")
    monkeypatch.setattr(cuda_rows.shutil, "which", lambda name: None)
    assert "nvcc is not installed" in str(cuda_rows.why_not())
    monkeypatch.setattr(cuda_rows.shutil, "which", lambda name: "nvcc")
    assert cuda_rows.why_not() is None
    assert "should be built" in str(cuda_rows.fault())
    (tmp_path / "_cuda.so").touch()
    assert cuda_rows.fault() is None
    os.utime(tmp_path / "_cuda.so", (0, 0))
    assert "is older" in str(cuda_rows.fault())


def test_the_assemblers_unrolling_is_seen():
    ptx = (FOLDER / "decode_sm_80.ptx").read_text()
    assert unrolled(body("decode_sm_80"), ptx) == 4


def test_multiply_adds_are_those_of_the_tile():
    """dot multiplies [64, 32] by [32, 16]: four warps together, whatever the instruction."""
    for name in ("dot_sm_80", "dot_sm_90"):
        assert 4 * sum(i.multiply_adds for i in body(name).instructions) == 64 * 32 * 16


def test_multiply_adds_in_tensor_memory_are_those_of_the_inner_loop():
    line = "ttng.tc_gen5_mma %a, %b : !ttg.memdesc<64x32xbf16, #x>, !ttg.memdesc<32x16xbf16, #y>\n"
    assert tensor_memory_multiply_adds(f"    {line}      {line}") == 64 * 32 * 16


def test_without_a_loop_the_whole_kernel_counts_but_not_its_padding():
    text = "\n".join(
        ["/*0000*/ LDG.E R1, [R2.64] ;", "/*0010*/ NOP ;", "/*0020*/ EXIT ;", ".L_x_0:",
         "/*0030*/ BRA `(.L_x_0);", "/*0040*/ NOP ;"]
    )  # fmt: skip
    found = inner_body(text)
    assert not found.is_loop
    assert [i.opcode for i in found.instructions] == ["LDG", "EXIT"]


def straight(*names: str, weights: int = 0, multiply_adds: float = 0.0) -> Work:
    body = Body(tuple(Instruction(name, "") for name in names), is_loop=True)
    return Work(body, 4, weights, multiply_adds)


def test_clocks_are_lanes_over_rates():
    work = straight("PRMT", "PRMT", "FFMA", "LDS")  # of 128 lanes
    clocks = pipe_clocks(work)
    assert clocks["issue"] == 4.0
    assert clocks["integer"] == 4.0
    assert clocks["multiply"] == 1.0
    assert clocks["load and store"] == 4.0


def test_the_budget_of_the_reference_comes_out():
    """22 integer instructions per 8 weights: 23 weights a clock, 93 % of the H100's bandwidth."""
    work = straight(*["PRMT"] * 22, *["HMUL2"] * 4, weights=8 * 128)
    found = bound(work, MACHINES[90])
    assert found.roof == "bandwidth" and found.limit == "integer"
    assert found.share == pytest.approx(0.93, abs=0.01)
    assert sass_per_weight(work) == pytest.approx(26 / 8)


def test_a_kernel_that_multiplies_enough_hides_its_decoding():
    few = straight(*["PRMT"] * 100, weights=64, multiply_adds=2048 * 100)
    many = replace(few, multiply_adds=2048 * 1000)
    assert bound(few, MACHINES[90]).share == pytest.approx(0.5)
    assert bound(many, MACHINES[90]).share == 1.0


def test_tables_that_the_cache_holds_are_no_traffic():
    looked_up = straight(*["LDG.E"] * 2, *["FFMA"] * 200)  # one of them from a table
    honest = replace(looked_up, moved_bytes=4 * 128)
    h100 = MACHINES[90]
    shares = [bound(work, h100).share for work in (looked_up, honest)]
    assert shares[0] < 1 and shares[0] == pytest.approx(2 * shares[1])


def test_a_weight_is_its_code_and_its_share_of_the_scales():
    """NF4 with double quantization has half a byte, a 64th for the scale, and 4 of 256 scales'."""
    assert bytes_per_weight(4, 64, True) == 1 / 2 + 1 / 64 + 4 / (64 * 256)
    assert bytes_per_weight(8, 128, False) == 1 + 4 / 128
    eight = replace(straight(*["PRMT"] * 22, weights=8 * 128), bytes_per_weight=1.0)
    assert bound(eight, MACHINES[90]).share == 1.0


def test_occupancy_is_what_registers_and_shared_memory_allow():
    h100 = MACHINES[90]
    assert occupancy(h100, 32, 0, 4) == 1.0
    assert occupancy(h100, 128, 0, 4) == 0.25
    assert occupancy(h100, 32, 100 << 10, 4) == 2 * 4 / 64
    assert occupancy(MACHINES[89], 255, 0, 8) == 8 / 48


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"spills": 16}, "spills should be 0 bytes, were 16"),
        ({"registers": 168}, "registers should be at most 128, was 168"),
        ({"shared_bytes": 8192}, "shared_bytes should be at most 4096, was 8192"),
        ({"sass_per_weight": 2.5}, "sass_per_weight should be at most 2.0, was 2.5"),
        ({"bound_share": 0.8}, "bound_share should be at least 0.9, was 0.8"),
        ({"matrix_instruction": ""}, "matrix_instruction should be wgmma 64x128x16, was none"),
    ],
)
def test_what_gets_worse_is_one_line(change: dict, line: str):
    found = list(limits.breaches([replace(ROW, **change)], {ROW.key: LIMIT}))
    assert found == [f"qlora_linear forward [nf4] sm_90: {line}"]


def test_what_stays_within_the_slack_passes():
    better = replace(ROW, registers=96, sass_per_weight=1.5, bound_share=1.0)
    near = replace(ROW, registers=130, sass_per_weight=2.05, bound_share=0.89)
    for row in (ROW, better, near):
        assert list(limits.breaches([row], {ROW.key: LIMIT})) == []


def test_few_rows_of_x_have_a_budget_that_no_update_moves():
    key = "bf16 block_m=16 splits=1 skinny=1"
    skinny = replace(ROW, kernel="forward_kernel", configuration=key, bound_share=0.84)
    assert "was promised to be 0.85" in next(budgets.broken([skinny]))
    assert not list(budgets.broken([replace(skinny, arch="sm_100")]))


def test_limits_and_kernels_are_the_same_set():
    assert "no limits" in next(limits.breaches([ROW], {}))
    assert "no such kernel" in next(limits.breaches([], {ROW.key: LIMIT}))


CODEC = replace(ROW, op="dequantize", kernel="dequantize_kernel", sass_beyond_memory=1.9,
                configuration="cuda, bf16, false, true, 64")  # fmt: skip


def test_a_budget_is_one_line_whatever_the_limits_are():
    assert list(budgets.broken([ROW, CODEC])) == []
    dear, slow = replace(CODEC, sass_beyond_memory=2.01), replace(CODEC, bound_share=0.89)
    lines = [line.partition(": ")[2] for line in budgets.broken([dear, slow])]
    assert lines == [
        "sass_beyond_memory has a budget of 2.0, was 2.01",
        "bound_share was promised to be 0.9, was 0.89",
    ]


def test_every_budget_is_of_a_kernel_that_has_limits():
    keys = [*limits.read()]
    for budget in budgets.BUDGETS:
        assert any(re.match(budget.rows, key) for key in keys), budget.rows


def test_a_product_of_bytes_counts_as_an_instruction():
    """It moves codes; a product of weights is what they were decoded for."""
    work = straight("IMMA.16832.U8.U8", "HMMA.16816.F32", "LDS.64", weights=128)
    assert (sass_per_weight(work), sass_beyond_memory(work)) == (2.0, 1.0)
    assert pipe_clocks(work)["matrix of bytes"] == 128 / 8


def test_a_bound_says_what_it_ignores():
    """Each kernel's least bound on one architecture; CUDA's warpgroups are its own to arrange."""
    better, elsewhere = replace(ROW, bound_share=0.95), replace(ROW, arch="sm_80", bound_share=0.1)
    other = replace(ROW, kernel="norm", configuration="cuda, bf16", sass_per_weight=None)
    none = replace(ROW, kernel="adamw", bound_roof="none")
    title, first, second = told.bounds_told([better, ROW, elsewhere, other, none])
    assert "not measured on a GPU" in title
    assert first.startswith(
        "qlora_linear forward: at most 90% of tensor, limited by issue; ignores"
    )
    assert "lock-step" in first and "lock-step" not in second
    assert second.startswith("qlora_linear norm (cuda): ")


def test_a_sample_has_two_configurations_of_each_kernel():
    names = ["forward", "forward", "forward", "backward", "norm", "backward", "norm"]
    assert command.sampled([SimpleNamespace(name=name) for name in names]) == [0, 2, 3, 4, 5, 6]


def test_the_command_writes_rows_and_fails_on_a_breach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Here:
        """A pool of one: the same interface, this process."""

        def __init__(self, workers: int) -> None: ...

        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *_: object) -> None: ...

        map = staticmethod(map)

    monkeypatch.setattr(command, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(command, "rooms", lambda: ["qlora_linear"])
    monkeypatch.setattr(command, "cases", lambda op: [None])
    monkeypatch.setattr(command, "_row", lambda op, number, arch: replace(ROW, arch=f"sm_{arch}"))
    monkeypatch.setattr(limits, "FILE", tmp_path / "limits.json")
    (tmp_path / "limits.json").write_text("{}")
    output = tmp_path / "build/kernels.json"
    arguments = SimpleNamespace(ops="", update=True, output=output, sample=False, backend="triton")
    assert command.run(arguments) == 0
    arguments.update = False
    assert command.run(arguments) == 0
    rows = json.loads(output.read_text())
    assert [row["arch"] for row in rows] == ["sm_80", "sm_89", "sm_90", "sm_100"]
    documented = "op kernel arch registers spills shared_bytes matrix_instruction sass_per_weight"
    assert {*documented.split(), "bound_share", "bound_ignores"} <= rows[0].keys()
    limits.FILE.write_text(limits.FILE.read_text().replace('"registers": 128', '"registers": 64'))
    assert command.run(arguments) == 1
    assert "registers should be at most 64, was 128" in capsys.readouterr().err
    monkeypatch.setattr(budgets, "BUDGETS", (budgets.Budget("qlora_linear", "registers", 100),))
    arguments.update = True
    assert command.run(arguments) == 1, "an update writes limits, no budget"
    assert "registers has a budget of 100, was 128" in capsys.readouterr().err
