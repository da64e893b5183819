"""One record per case and peer, as JSON lines: what was measured, where, and by which code."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bench.kernels.case import Case
from bench.kernels.roof import Roof
from bench.kernels.runs import Run
from qlora_kernels.errors import InputError
from qlora_kernels.files import write_text


@dataclass(frozen=True)
class Record:
    """Our time on a case and, if there is a peer, its time in the same rounds.

    ratio: how many times faster we are. share_of_roof: the least time that the measured roof
    allows over our time. rounds: how often ours was timed; a peer's time has its own, 1 where a
    call is slow. Of several runs the figures are their medians, and between_runs says from where
    to where each went. check, against_check: `passed`, or what was wrong. not_against: the peers
    that were asked for and not timed, and why.
    """

    op: str
    case: Mapping[str, object]
    backend: str
    against: str | None
    median_ms: float
    p20_ms: float
    p80_ms: float
    rounds: int
    against_ms: Mapping[str, float] | None
    ratio: float | None
    num_bytes: int  # the fewest that must move
    num_flops: int
    roof_ms: float
    share_of_roof: float
    runs: Sequence[Run]
    between_runs: Mapping[str, Sequence[float]] | None  # figure: least and most; None of one run
    check: str
    against_check: str | None
    not_against: Mapping[str, str]
    settings: Mapping[str, object]  # command, threads, allocator, cold bytes, clocks, roof
    origin: Mapping[str, object]  # commit, date, versions, machine

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.num_flops / self.num_bytes

    def line(self) -> str:
        own = asdict(self)
        origin = own.pop("origin")
        return json.dumps({**own, **origin})


def described(case: Case) -> dict[str, object]:
    """The case without its op, which stands beside it."""
    fields = asdict(case)
    del fields["op"]
    return fields


def described_roof(roof: Roof) -> dict[str, object]:
    return {name: round(v, 1) if isinstance(v, float) else v for name, v in asdict(roof).items()}


def write(path: Path, records: Iterable[Record]) -> Path:
    """All records so far: called after each case, so that what is cut off keeps them."""
    return write_text(path, "".join(record.line() + "\n" for record in records))


def read(path: Path) -> list[Record]:
    """What `write` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_record(json.loads(line)) for line in lines if line]


def _record(line: dict[str, Any]) -> Record:
    known = {field.name for field in fields(Record)} - {"origin"}
    if absent := known - line.keys():
        raise InputError(
            f"bench: records should have {', '.join(sorted(absent))}, these are older: --json"
            " should name another file"
        )
    own = {name: value for name, value in line.items() if name in known}
    return Record(**own, origin={n: v for n, v in line.items() if n not in known})
