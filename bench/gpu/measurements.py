"""What is timed, most valuable first; each a run of `python -m bench --op` of its own."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.gpu.outcomes import named
from bench.gpu.place import Place

PEERS = "torch,bitsandbytes,peft"
BESIDE = f"triton,{PEERS}"  # the dispatcher's order comes from these (preferences.py)
OWN = ("frozen", "lora")
LLAMA = ("--shapes", "llama-8b")
STEP = ("--shapes", "448x93696")  # of an optimizer, over the adapters of such a model
TRAINING = ("--direction", "forward+backward")
BOTH = ("--direction", "forward,forward+backward")


@dataclass(frozen=True)
class Measurement:
    """Options of one `python -m bench`, and the longest it may take."""

    op: str
    options: tuple[str, ...]
    seconds: float = 90.0
    room: str = ""  # whose tests must be green, where it has another name than the op
    backend: str = "triton"
    against: str = PEERS

    @property
    def tested(self) -> str:
        return named(self.room or self.op, self.backend)

    @property
    def own(self) -> str:
        """The peers that are variants of ours: all that is of use without a GPU."""
        return ",".join(name for name in self.against.split(",") if name in OWN)


def _cuda(op: str, options: tuple[str, ...], seconds: float = 40, room: str = "") -> Measurement:
    return Measurement(op, options, seconds, room, "cuda", BESIDE)


def _linear(*options: str, seconds: float = 90.0, against: str = PEERS) -> Measurement:
    return Measurement("qlora_linear", options, seconds, against=against)


MEASUREMENTS = (
    _linear(*LLAMA, "--m", "1,16,64"),
    _cuda("qlora_linear", (*LLAMA, "--m", "1,16"), 60),
    _linear(*LLAMA, "--m", "4096", against=f"{PEERS},frozen"),
    Measurement("dequantize", LLAMA, 40),
    Measurement("quantize", LLAMA, 40),
    _cuda("dequantize", LLAMA),
    _cuda("quantize", LLAMA),
    _linear(*LLAMA, "--m", "4096", *TRAINING, against=f"{PEERS},unsloth-style"),
    Measurement(
        "dora_linear", (*LLAMA, "--m", "4096", *BOTH), 60, room="qlora_linear", against="lora"
    ),
    Measurement("adamw8bit", STEP, 40, room="adamw"),
    _cuda("adamw8bit", STEP, room="adamw"),
    Measurement("dora_column_norm", LLAMA, 30),
    _cuda("dora_column_norm", LLAMA, 30),
    Measurement("linear_cross_entropy", (*LLAMA, "--m", "4096", *BOTH)),
    Measurement("adamw8bit", (*STEP, "--format", "paged8bit"), 40, room="paging"),
    _linear("--shapes", "llama-70b", "--m", "1,16,4096", *BOTH),
    _linear("--shapes", "smollm2", "--m", "1,512,4096", "--dtype", "fp16"),
)
PART = "part.jsonl"  # what runs now writes here, case by case
# float32, since a CPU takes seconds for the roof of 16-bit products.
TINY = ("--shapes", "64x128", "--m", "2", "--dtype", "fp32", "--seconds", "0", "--threads", "1")


def measure(place: Place, green: set[str] | None, timed: set[str]) -> Iterator[str]:
    """Run them while there is time; all records so far are in kernels.jsonl after each.

    green: what tests found so, or None if none ran, when each measurement's own check decides.
    """
    whole = place.output / "kernels.jsonl"
    for earlier in (whole, place.output / PART):  # of a call that was killed
        earlier.unlink(missing_ok=True)
    for measurement in rehearsed() if place.rehearses else MEASUREMENTS:
        op, backend = measurement.op, measurement.backend
        name = named(op, backend)
        if op not in timed:
            yield f"{name}: not timed, bench has no such op"
        elif green is not None and measurement.tested not in green:
            yield f"{name}: not timed, it is not green"
        elif place.seconds_left < 10:
            yield f"{name} {' '.join(measurement.options)}: not timed, no time is left"
        else:
            yield _timed(place, measurement, whole)


def rehearsed() -> list[Measurement]:
    """The first of each op, backend and peers of ours: in small all others are the same."""
    found: dict[tuple[str, ...], Measurement] = {}
    for measurement in MEASUREMENTS:
        found.setdefault((measurement.op, measurement.backend, measurement.own), measurement)
    return list(found.values())


def _timed(place: Place, measurement: Measurement, whole: Path) -> str:
    """Its tables, or what it said before it failed."""
    part = place.output / PART
    options = TINY if place.rehearses else (*measurement.options, "--seconds", "0.1")
    words = ["-m", "bench", "--op", measurement.op, "--backend", measurement.backend, *options]
    words += ["--against", measurement.own if place.rehearses else measurement.against]
    seconds = None if place.rehearses else measurement.seconds
    code, output = place.python(*words, "--json", str(part), seconds=seconds)
    _append(part, whole)
    name = named(measurement.op, measurement.backend)
    return output.rstrip() + ("" if code == 0 else f"\n{name}: ended with {code}")


def _append(part: Path, whole: Path) -> None:
    """Whole lines only: a run that was cut off wrote its records atomically, or none."""
    if part.exists():
        with whole.open("a", encoding="utf-8") as file:
            file.write(part.read_text(encoding="utf-8"))
        part.unlink()


def num_records(whole: Path) -> int:
    if not whole.exists():
        return 0
    return sum(bool(json.loads(line)) for line in whole.read_text(encoding="utf-8").splitlines())
