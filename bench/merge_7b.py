"""`python -m bench merge-7b`: many adapters of a 7B-shape model, merged in a process of its own."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from qlora.provenance import provenance
from qlora_kernels.files import write_text
from qlora_kernels.formats.adapter_folder import (
    AdapterFolder,
    AdapterFolderConfig,
    LayerFactors,
    read_adapter_folder,
    write_adapter_folder,
)

HELP = """\
Fabricate adapters of the shape of Llama-2-7B, run `qlora merge` on them in a process of its own,
and record its seconds and its peak memory. One layer of the result is checked against the sum."""

RECORD = Path("bench/results/merge-7b/record.json")
HIDDEN, INNER = 4096, 11008
SHAPES = {
    **{f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"},
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
MERGES = (("average", "full"), ("average", "16"), ("task-arithmetic", "full"))
MAX_SECONDS, MAX_BYTES = 60.0, 4e9
CHECKED = "model.layers.0.mlp.down_proj"
MAX_ERROR = 1e-5  # of float32 factors of the sum


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--adapters", type=int, default=8, metavar="N")
    parser.add_argument("--rank", type=int, default=16, metavar="N", help="of each adapter")
    parser.add_argument("--layers", type=int, default=32, metavar="N", help="blocks of the model")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD}")


def run(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / f"adapter{number}" for number in range(arguments.adapters)]
        for seed, folder in enumerate(folders):
            write_adapter_folder(fabricate(seed, arguments), folder)
        rows = list(measured(folders, Path(place), arguments.threads))
    for row in rows:
        print(json.dumps(row))
    if arguments.record:
        shape = {name: getattr(arguments, name) for name in ("adapters", "rank", "layers")}
        origin = provenance(["torch", "safetensors", "numpy"])
        record = {"shape": shape, "threads": arguments.threads, "rows": rows, **origin}
        write_text(RECORD, json.dumps(record, indent=2) + "\n")
    return int(any(row["seconds"] > MAX_SECONDS or row["peak_bytes"] > MAX_BYTES for row in rows))


def fabricate(seed: int, arguments: argparse.Namespace) -> AdapterFolder:
    generator = torch.Generator().manual_seed(seed)
    rank = arguments.rank
    layers = {
        f"model.layers.{block}.{name}": LayerFactors(
            torch.randn(rank, columns, generator=generator),
            torch.randn(rows, rank, generator=generator),
            2.0,
        )
        for block in range(arguments.layers)
        for name, (rows, columns) in SHAPES.items()
    }
    return AdapterFolder(layers, AdapterFolderConfig(r=rank, alpha=2 * rank))


def measured(folders: list[Path], place: Path, threads: int) -> Iterator[dict[str, object]]:
    """A row for each linear method and rank that matters."""
    for method, rank in MERGES:
        output = place / f"{method}-{rank}"
        words = ["--method", method, "--rank", rank, "-o", str(output)]
        command = [sys.executable, "-m", "qlora.cli", "merge", *map(str, folders), *words]
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise RuntimeError(f"{' '.join(command)} ended with status {status}")
        yield {
            "method": method,
            "rank": rank,
            "seconds": round(seconds, 2),
            "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_bytes": usage.ru_maxrss * 1024,
            "error_of_one_layer": checked(folders, output, method) if rank == "full" else None,
        }


def checked(folders: list[Path], output: Path, method: str) -> float:
    """Relative error of one layer against the dense sum in float64; stops where it is too large."""
    parts = [read_adapter_folder(folder).layers[CHECKED] for folder in [*folders, output]]
    *updates, merged = [f.scaling * f.b[:512].double() @ f.a.double() for f in parts]
    wanted = sum(updates) / (len(updates) if method == "average" else 1)
    error = float((merged - wanted).norm() / wanted.norm())
    if error > MAX_ERROR:
        raise RuntimeError(f"{method}: {CHECKED} differs from the sum by {error:.2e}")
    return error
