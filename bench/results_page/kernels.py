"""Records of kernels as a table: a row per case, a column per peer and allocator."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.kernels.check import PASSED
from bench.kernels.table import spread
from bench.merging.table import markdown

Records = Sequence[Mapping[str, Any]]


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
    words += ["--format", case["format"], "--allocator", settings["allocator"]]
    return " ".join(words)


def _peers(records: Records) -> str:
    return ",".join(dict.fromkeys(r["against"] for r in records if r["against"]))


def tables(records: Records) -> list[str]:
    """Paragraphs: for each op and backend its table, its roof, and what was wrong with whom."""
    parts: list[str] = []
    for (op, backend), chosen in grouped(records, lambda r: (r["op"], r["backend"])).items():
        parts += [f"`{op}`, backend {backend}:", _table(chosen), *_notes(chosen)]
    return parts


def grouped(records: Iterable[Mapping[str, Any]], key: Any) -> dict[Any, list[Mapping[str, Any]]]:
    """Records by a key, in the order of its first appearance."""
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    return found


def _table(records: Records) -> str:
    columns = list(dict.fromkeys(map(_column, records)))
    rivals = [column for column in columns if column]
    lines = []
    for case, of_case in grouped(records, lambda r: described(r["case"])).items():
        ours = of_case[0]
        cells = {_column(record): _against(record) for record in of_case}
        share = f"{ours['share_of_roof']:.0%}"
        lines.append([case, spread(ours), share, *(cells.get(rival, "") for rival in rivals)])
    return markdown(["case", "ms (p20-p80)", "of roof", *rivals], lines)


def described(case: Mapping[str, Any]) -> str:
    """`llama-8b q/o, m 1, bf16, nf4, rank 16, forward`, without what is nought."""
    words = [str(case["shape"]), f"m {case['m']}" * bool(case["m"]), case["dtype"], case["format"]]
    if case["m"]:
        words += [f"rank {case['rank']}" * bool(case["rank"]), case["direction"]]
    return ", ".join(word for word in words if word)


def _column(record: Mapping[str, Any]) -> str | None:
    """Its peer, and the allocator where it is not the system's own."""
    if record["against"] is None:
        return None
    allocator = record["settings"].get("allocator", "default")
    return record["against"] + ("" if allocator == "default" else f", {allocator} allocator")


def _against(record: Mapping[str, Any]) -> str:
    """`1.25x (6.3 ms)`; a peer that did not pass its check is marked."""
    if record["against"] is None:
        return ""
    mark = "" if record["against_check"] == PASSED else "*"
    return f"{record['ratio']:.2f}x ({record['against_ms']['median_ms']:.3g} ms){mark}"


def _notes(records: Records) -> list[str]:
    roofs = dict.fromkeys(_roof(r["settings"]) for r in records)
    notes = dict.fromkeys(
        f"- not against {name}: {reason}"
        for record in records
        for name, reason in record.get("not_against", {}).items()
    ) | dict.fromkeys(
        f"- \\* {record['against']}: {record['against_check']}"
        for record in records
        if record["against_check"] not in (None, PASSED)
    )
    threads = records[0]["settings"].get("threads")
    where = f" {threads} threads, each bound." if threads else ""
    said = (
        f"Times how much faster than each peer, in the same rounds.{where} Roof as measured then: "
    )
    return [said + "; ".join(roofs) + ".", *(["\n".join(notes)] if notes else [])]


def _roof(settings: Mapping[str, Any]) -> str:
    roof = settings["roof"]
    names = ("read", "copy", "update")
    rates = [f"{name} {roof[key]} GB/s" for name in names if (key := f"{name}_gb_per_s") in roof]
    return f"{roof['dtype']} {roof['matrix_gflop_per_s']:,} GFLOP/s, {', '.join(rates)}"
