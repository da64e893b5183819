"""`make bench-gate`: what it counts, and that a kernel which got worse turns it red."""

import subprocess
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.instruction_gate import command, limits
from bench.instruction_gate.build import build, compiler, flags
from bench.instruction_gate.callgrind import counted, missing
from bench.instruction_gate.disassembly import functions, loops, short

LISTING = """
0000000000000000 <void qlora::cpu::avx512::f<int>(float*, long) [clone .isra.0]>:
   0:\txor    %eax,%eax
   4:\tvmovups (%rdi),%zmm0
   8:\tvmovups %zmm1,0x40(%rsp)
   c:\tvmovups %zmm1,(%rsi,%rax,1)
  10:\tjne    4 <f+0x4>
  14:\tdec    %ecx
  18:\tjne    0 <f+0x0>
  1c:\tret
"""
PROGRAM = """
#include <cstdlib>
extern "C" __attribute__((noinline)) void measured(int times) {
  for (volatile int i = 0; i < times; i = i + 1) {}
}
int main(int, char** arguments) { measured(std::atoi(arguments[1])); }
"""


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Limits of this compiler, and counts that nobody had to wait for."""
    file = tmp_path / "limits.json"
    file.write_text("{}")
    monkeypatch.setattr(limits, "FILE", file)
    limits.write(compiler(), {"avx2 dequantize": 1000, "serial dequantize": 4000})
    monkeypatch.setattr(command, "missing", lambda: None)
    monkeypatch.setattr(command, "build", lambda: tmp_path)
    monkeypatch.setattr(command, "inner_loops", lambda _: {})
    counts = {"avx2 dequantize": 1020, "serial dequantize": 4000}
    monkeypatch.setattr(command, "executed", lambda *_: counts)
    return file


def count(monkeypatch: pytest.MonkeyPatch, **counts: int) -> None:
    named = {f"{isa} dequantize": number for isa, number in counts.items()}
    monkeypatch.setattr(command, "executed", lambda *_: named)


def test_what_grew_is_red_and_named(committed, monkeypatch, capsys):
    assert main(["gate"]) == 0  # 2 % more
    count(monkeypatch, avx2=1100, serial=4000)
    assert main(["gate"]) == 1
    told = capsys.readouterr().out
    assert "avx2 dequantize: should be at most 1000 * 1.03, was 1100, +10.0%" in told
    assert main(["gate", "--update"]) == 0 and main(["gate"]) == 0


def test_what_has_no_limit_or_no_kernel_is_red(committed, monkeypatch, capsys):
    count(monkeypatch, avx2=1000, avx1024=1)
    assert main(["gate"]) == 1
    told = capsys.readouterr().out
    assert "avx1024 dequantize: has no committed count, was 1" in told
    assert "serial dequantize: has a committed count, but was not found" in told


def test_a_gain_is_told(committed, monkeypatch, capsys):
    count(monkeypatch, avx2=500, serial=4000)
    assert main(["gate"]) == 0
    assert "better: avx2 dequantize: 1000 -> 500" in capsys.readouterr().out


def test_another_compiler_is_not_compared(committed, monkeypatch, capsys):
    monkeypatch.setattr(command, "compiler", lambda: "g++ 99")
    assert main(["gate"]) == 2
    assert f"counts are committed for {compiler()}, was g++ 99" in capsys.readouterr().err
    assert main(["gate", "--update"]) == 0
    assert limits.read().keys() == {compiler(), "g++ 99"}


def test_without_valgrind_it_is_one_line(committed, monkeypatch, capsys):
    monkeypatch.setattr(command, "missing", lambda: "valgrind is not installed")
    assert main(["gate"]) == 2
    assert capsys.readouterr().err == "bench gate: valgrind is not installed\n"


def test_only_the_innermost_loop_counts_and_its_spills():
    ((name, body),) = functions(LISTING.splitlines())
    (loop,) = loops(body)
    assert [instruction.address for instruction in loop] == [4, 8, 12, 16]
    assert [instruction.is_spill for instruction in loop] == [False, True, False, False]
    assert short(name) == "f"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qlora::cpu::avx512::Panels::pack(long) const", "Panels::pack"),
        (
            "auto qlora::cpu::avx512::f<A>(B const&)::{lambda(auto:1*)#1}::operator()<C>(C*) const",
            "f",
        ),
        ("qlora::cpu::(anonymous namespace)::g(std::span<float const, 8ul>)", "g"),
    ],
)
def test_functions_go_by_their_names(name: str, expected: str):
    assert short(name) == expected


def test_the_flags_are_those_of_the_extension():
    assert "-ffp-contract=off" in flags()


def test_valgrind_counts_what_is_measured_and_nothing_else(tmp_path: Path):
    if reason := missing():
        pytest.skip(reason)
    (tmp_path / "a.cpp").write_text(PROGRAM)
    program = str(tmp_path / "a")
    subprocess.run(["g++", "-O1", str(tmp_path / "a.cpp"), "-o", program], check=True)
    short_run, long_run, again = (counted([program, times]) for times in ("1000", "2000", "2000"))
    assert long_run == again
    assert 1.9 < long_run / short_run < 2.1


@pytest.mark.slow  # compiles every kernel
def test_the_kernels_are_counted_in_full():
    if reason := missing():
        pytest.skip(reason)
    folder = build()
    listed = subprocess.run([folder / "driver", folder / "tables"], capture_output=True, text=True)
    cases = listed.stdout.splitlines()
    assert len(cases) == 13
    for known in limits.read().values():
        assert {f"{isa} {case}" for isa in ("avx2", "serial") for case in cases} <= known.keys()
