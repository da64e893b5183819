"""Records of kernels as tables: one per op, backend and allocator, a row per case."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bench.kernels import pace
from bench.kernels.check import PASSED
from bench.kernels.table import between, spread
from bench.merging.table import markdown

Records = Sequence[Mapping[str, Any]]
ONCE = "¹"
LEFT_OUT = "left out"


def commands(records: Records) -> list[str]:
    """Each once; where the oldest records name none, from what they say that they measured."""
    by_command = grouped(records, lambda r: r["settings"].get("command") or _options(r))
    return [
        command if "command" in chosen[0]["settings"] else f"{command} --against {_peers(chosen)}"
        for command, chosen in by_command.items()
    ]


def _options(record: Mapping[str, Any]) -> str:
    case, settings = record["case"], record["settings"]
    words = [
        "python",
        "-m",
        "bench",
        "--op",
        record["op"],
        "--backend",
        record["backend"],
        "--shapes",
        case["shape"],
    ]
    words += ["--m", str(case["m"])] if case["m"] else []
    words += ["--dtype", case["dtype"], "--direction", case["direction"]]
    words += ["--format", case["format"]] if case["format"] else []
    words += ["--allocator", settings["allocator"]]
    return " ".join(words)


def _peers(records: Records) -> str:
    return ",".join(dict.fromkeys(r["against"] for r in records if r["against"]))


def tables(records: Records) -> list[str]:
    """Paragraphs: for each table its roof, and what was wrong with whom."""
    parts: list[str] = []
    for heading, chosen in grouped(records, _heading).items():
        parts += [f"{heading}:", _table(chosen), *_notes(chosen)]
    return parts


def _heading(record: Mapping[str, Any]) -> str:
    """Of its table; the allocator where it is not the system's own."""
    allocator = record["settings"].get("allocator", "default")
    raised = f", {allocator} allocator" * (allocator != "default")
    return f"`{record['op']}`, backend {record['backend']}{raised}"


def grouped(records: Iterable[Mapping[str, Any]], key: Any) -> dict[Any, list[Mapping[str, Any]]]:
    """Records by a key, in the order of its first appearance."""
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    return found


def _table(records: Records) -> str:
    rivals = list(dict.fromkeys(r["against"] for r in records if r["against"]))
    num_runs = max(map(_num_runs, records))
    lines = []
    for case, of_case in grouped(records, lambda r: described(r["case"])).items():
        ours = of_case[0]
        cells = {record["against"]: _against(record) for record in of_case}
        for record in of_case:  # names that have a time keep it
            cells = dict.fromkeys(_left_out(record), LEFT_OUT) | cells
        words = [case, spread(ours, _num_runs(ours)), _between_runs(ours)]
        words += [f"{ours['share_of_roof']:.0%}", *(cells.get(rival, "") for rival in rivals)]
        lines.append(words if num_runs > 1 else words[:2] + words[3:])
    of_runs = [f"of {num_runs} runs"] * (num_runs > 1)
    return markdown(["case", "ms (p20-p80)", *of_runs, "of roof", *rivals], lines)


def _num_runs(record: Mapping[str, Any]) -> int:
    return len(record.get("runs", "1"))  # the oldest records tell of one, and not so


def _between_runs(record: Mapping[str, Any], figure: str = "median_ms", form: str = ".3g") -> str:
    return between((record.get("between_runs") or {}).get(figure), form)


def _left_out(record: Mapping[str, Any]) -> list[str]:
    """Columns of the peers that were too slow to be called."""
    absent = record.get("not_against", {})
    return [name for name, reason in absent.items() if reason.startswith(pace.LEFT_OUT)]


def described(case: Mapping[str, Any]) -> str:
    """`llama-8b q/o, m 1, bf16, nf4, rank 16, forward`, without what is nought."""
    words = [str(case["shape"]), f"m {case['m']}" * bool(case["m"]), case["dtype"], case["format"]]
    if case["m"]:
        words += [f"rank {case['rank']}" * bool(case["rank"]), case["direction"]]
    return ", ".join(word for word in words if word)


def _against(record: Mapping[str, Any]) -> str:
    """`1.25x, 1.21-1.30 (6.3 ms)`; a peer that did not pass its check is marked, so is one call."""
    if record["against"] is None:
        return ""
    theirs = record["against_ms"]
    marks = "" if record["against_check"] == PASSED else "*"
    marks += ONCE * (theirs.get("rounds") == _num_runs(record))
    ends = _between_runs(record, "ratio", ".2f")
    return f"{record['ratio']:.2f}x{', ' * bool(ends)}{ends} ({theirs['median_ms']:.3g} ms){marks}"


def _notes(records: Records) -> list[str]:
    by_dtype = grouped((r["settings"]["roof"] for r in records), lambda roof: roof["dtype"])
    roofs = "; ".join(map(_roof, by_dtype.values()))
    notes = dict.fromkeys(
        f"- not against {name}: {reason}"
        for record in records
        for name, reason in record.get("not_against", {}).items()
        if not reason.startswith(pace.LEFT_OUT)
    ) | dict.fromkeys(
        f"- \\* {record['against']}: {record['against_check']}"
        for record in records
        if record["against_check"] not in (None, PASSED)
    )
    notes |= dict.fromkeys(_marks(records))
    settings = records[0]["settings"]
    threads, isa = settings.get("threads"), settings.get("isa")
    where = f" {threads} threads, each bound{f', {isa}' * bool(isa)}." if threads else ""
    said = (
        f"Times how much faster than each peer, in the same rounds.{where} Roof as measured then:"
        f" {roofs}."
    )
    return [said, *(["\n".join(notes)] if notes else [])]


def _marks(records: Records) -> Iterator[str]:
    """What the marks in the table mean, those that are there."""
    num_runs = max(map(_num_runs, records))
    if num_runs > 1:
        fewest = min(map(_num_runs, records))
        some = f", of some cases {fewest}" * (fewest < num_runs)
        yield (
            f"- {num_runs} runs of each case{some}, each after a pass over all the others: medians,"
            " and from the least to the most of the runs' medians; p20-p80 within a run"
        )
    if any(ONCE in _against(record) for record in records):
        yield f"- {ONCE} slow: one call in each run"
    if any(map(_left_out, records)):
        yield f"- {LEFT_OUT}: by its times for fewer rows, one call would take too long"


def _roof(roofs: Records) -> str:
    """Of one dtype: from the least to the most that was measured beside a case."""
    names = ("read", "copy", "update")
    rates = [
        f"{name} {_ends([roof[key] for roof in roofs])} GB/s"
        for name in names
        if (key := f"{name}_gb_per_s") in roofs[0]
    ]
    products = _ends([roof["matrix_gflop_per_s"] for roof in roofs])
    return f"{roofs[0]['dtype']} {products} GFLOP/s, {', '.join(rates)}"


def _ends(rates: Sequence[float]) -> str:
    return " to ".join(f"{rate:,}" for rate in sorted({min(rates), max(rates)}))
