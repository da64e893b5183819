"""What is timed, most valuable first; each a run of `python -m bench --op` of its own."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.gpu.place import Place
from bench.gpu.verify import named

PEERS = "torch,bitsandbytes,peft"


@dataclass(frozen=True)
class Measurement:
    """Options of one `python -m bench`, and the longest it may take."""

    op: str
    options: tuple[str, ...]
    seconds: float = 90.0
    room: str = ""  # whose tests must be green, where it has another name than the op
    backend: str = "triton"

    @property
    def tested(self) -> str:
        return named(self.room or self.op, self.backend)


MEASUREMENTS = (
    Measurement("qlora_linear", ("--shapes", "llama-8b", "--m", "1,16,64,4096")),
    Measurement("dequantize", ("--shapes", "llama-8b"), 40),
    Measurement(
        "qlora_linear",
        ("--shapes", "llama-8b", "--m", "4096", "--direction", "forward+backward"),
    ),
    Measurement("quantize", ("--shapes", "llama-8b"), 40),
    Measurement("dora_column_norm", ("--shapes", "llama-8b"), 30),
    Measurement("dequantize", ("--shapes", "llama-8b"), 40, backend="cuda"),
    Measurement("quantize", ("--shapes", "llama-8b"), 40, backend="cuda"),
    Measurement("qlora_linear", ("--shapes", "llama-8b", "--m", "1,16"), 40, backend="cuda"),
    Measurement("adamw8bit", ("--shapes", "448x93696"), 40, room="adamw", backend="cuda"),
    Measurement("dora_column_norm", ("--shapes", "llama-8b"), 30, backend="cuda"),
    Measurement(
        "linear_cross_entropy",
        ("--shapes", "llama-8b", "--m", "4096", "--direction", "forward,forward+backward"),
    ),
    Measurement("adamw8bit", ("--shapes", "448x93696"), 40, room="adamw"),
    Measurement("adamw8bit", ("--shapes", "448x93696", "--format", "paged8bit"), 40, room="paging"),
    Measurement("qlora_linear", ("--shapes", "llama-8b", "--m", "4096", "--rank", "0"), 40),
    Measurement(
        "qlora_linear",
        ("--shapes", "llama-70b", "--m", "1,16,4096", "--direction", "forward,forward+backward"),
    ),
    Measurement("qlora_linear", ("--shapes", "smollm2", "--m", "1,512,4096", "--dtype", "fp16")),
)
TINY = ("--shapes", "64x128", "--m", "2", "--seconds", "0")


def measure(place: Place, green: set[str], timed: set[str]) -> Iterator[str]:
    """Run them while there is time; all records so far are in kernels.jsonl after each."""
    whole = place.output / "kernels.jsonl"
    whole.unlink(missing_ok=True)
    plotted: set[str] = set()
    for measurement in MEASUREMENTS:
        op, backend = measurement.op, measurement.backend
        name = named(op, backend)
        if measurement.tested not in green or op not in timed:
            why = "it is not green" if op in timed else "bench has no such op"
            yield f"{name}: not timed, {why}"
            continue
        if place.seconds_left < 10:
            yield f"{name} {' '.join(measurement.options)}: not timed, no time is left"
            continue
        part = place.output / "part.jsonl"
        options = TINY if place.rehearses else (*measurement.options, "--seconds", "0.1")
        words = ["-m", "bench", "--op", op, "--backend", backend, *options, "--json", str(part)]
        words += [] if place.rehearses else ["--against", PEERS]
        if name not in plotted:
            words += ["--plot", str(place.output / f"{name}.png")]
            plotted.add(name)
        seconds = None if place.rehearses else measurement.seconds
        code, output = place.python(*words, seconds=seconds)
        _append(part, whole)
        yield output.rstrip() + ("" if code == 0 else f"\n{name}: ended with {code}")


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
