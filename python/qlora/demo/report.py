"""What the demo found: the numbers, as JSON for programs and as tables for people."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from rich.table import Table

from qlora.train.progress import clock
from qlora_kernels.files import write_text


@dataclass(frozen=True)
class Report:
    """Accuracies are shares of the test sentences; bytes are those of the quantized layers."""

    base_accuracy: float
    tuned_accuracy: float
    majority_accuracy: float
    zero_shot_accuracy: float
    base_loss: float
    tuned_loss: float
    num_test_rows: int
    num_test_templates: int
    num_quantized_weights: int
    quantized_bytes: int
    bytes_per_weight: float
    seconds: float  # of all phases but the download
    phase_seconds: dict[str, float]
    seed: int
    steps: int
    plot: str
    adapter: str
    origin: dict[str, object]  # commit, date, versions, machine: they stand among the others

    def write(self, path: Path) -> Path:
        """Write everything as one JSON object."""
        fields = asdict(self)
        origin = fields.pop("origin")
        return write_text(path, json.dumps({**fields, **origin}, indent=2) + "\n")

    def accuracy_table(self) -> Table:
        """Base against tuned, beside what an answer is worth that knows less."""
        table = Table(
            title=f"{self.num_test_rows} test sentences of {self.num_test_templates} templates"
            " that training never saw"
        )
        table.add_column("who answers")
        table.add_column("right", justify="right")
        table.add_column("how")
        rows = (
            ("base", self.base_accuracy, "writes freely; nobody told it the names of the intents"),
            ("majority", self.majority_accuracy, "always the most frequent intent"),
            ("zero-shot", self.zero_shot_accuracy, "base, choosing the likeliest of all intents"),
            ("tuned", self.tuned_accuracy, "writes freely, must hit the name exactly and stop"),
        )
        for who, accuracy, how in rows:
            style = "bold green" if who == "tuned" else None
            table.add_row(who, f"{accuracy:.1%}", how, style=style)
        return table

    def memory_line(self) -> str:
        """What NF4 saves against 16 bits."""
        sixteen = 2 * self.num_quantized_weights
        return (
            f"{self.num_quantized_weights / 1e6:.1f} M quantized weights take"
            f" {self.quantized_bytes / 1e6:.1f} MB instead of {sixteen / 1e6:.1f} MB in 16 bits:"
            f" {self.bytes_per_weight:.4f} bytes per weight,"
            f" {(sixteen - self.quantized_bytes) / 1e6:.1f} MB saved"
        )

    def time_line(self) -> str:
        """Where the time went."""
        phases = ", ".join(f"{name} {clock(took)}" for name, took in self.phase_seconds.items())
        return f"{clock(self.seconds)} ({phases})"


class Stopwatch:
    """Seconds by phase."""

    def __init__(self) -> None:
        """Nothing measured yet."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block."""
        start = perf_counter()
        yield
        self.seconds[name] = round(perf_counter() - start, 2)
