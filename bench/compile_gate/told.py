"""What the report says of each kernel in words: its least bound, and what that bound ignores."""

from collections.abc import Iterable, Iterator

from bench.compile_gate.compiled import Row

ARCHITECTURE = "sm_90"
ALWAYS = "latencies, bank conflicts, barriers"
LOCK_STEP = "that Triton's warpgroups run in lock-step, so that decoding and multiplying take turns"
TABLES = "that tables and shared rows are read from the cache"
ONE_LOOP = "all code but its main loop"


def ignored(row: Row) -> str:
    """What machine code does not show, and could put this kernel beside its bound."""
    is_cuda = row.configuration.startswith("cuda")
    said = [ALWAYS]
    if row.matrix_instruction.startswith(("wgmma", "tcgen05")) and not is_cuda:
        said.append(LOCK_STEP)
    said.append(TABLES if row.sass_per_weight is None else ONE_LOOP)
    return "; ".join(said)


def bounds_told(rows: Iterable[Row]) -> Iterator[str]:
    """A line for each kernel, of its configuration with the least bound on one architecture."""
    least: dict[tuple[str, str, bool], Row] = {}
    for row in rows:
        if row.arch == ARCHITECTURE and row.bound_roof != "none":
            key = (row.op, row.kernel, row.configuration.startswith("cuda"))
            if key not in least or row.bound_share < least[key].bound_share:
                least[key] = row
    if least:
        title = f"Bounds on {ARCHITECTURE} by machine code, the least of each kernel"
        yield f"{title}; not measured on a GPU."
    for (op, kernel, is_cuda), row in sorted(least.items()):
        name = f"{op} {kernel}{' (cuda)' if is_cuda else ''}"
        share = f"{row.bound_share:.0%} of {row.bound_roof}, limited by {row.bound_limit}"
        yield f"{name}: at most {share}; ignores {ignored(row)}"
