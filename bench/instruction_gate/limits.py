"""The committed counts, by compiler: what another makes of the same sources is not comparable."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from qlora_kernels.files import write_text

FILE = Path(__file__).with_name("limits.json")
SLACK = 1.03

Counts = Mapping[str, int]


def breaches(counts: Counts, limits: Counts) -> Iterator[str]:
    """One line for each count that grew, and for each that has no limit or no kernel any more."""
    for key, now in counts.items():
        then = limits.get(key)
        if then is None:
            yield f"{key}: has no committed count, was {now} (make bench-gate UPDATE=1)"
        elif now > then * SLACK:
            grew = f", {now / then - 1:+.1%}" if then else ""
            yield f"{key}: should be at most {then} * {SLACK:g}, was {now}{grew}"
    for key in sorted(limits.keys() - counts.keys()):
        yield f"{key}: has a committed count, but was not found (make bench-gate UPDATE=1)"


def gains(counts: Counts, limits: Counts) -> list[str]:
    """What became so much better that its limit should follow."""
    return [
        f"{key}: {limits[key]} -> {now}"
        for key, now in counts.items()
        if key in limits and now * SLACK < limits[key]
    ]


def read() -> dict[str, dict[str, int]]:
    """Compiler -> counts."""
    found: dict[str, dict[str, int]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def write(compiler: str, counts: Counts) -> None:
    """Today's counts of this compiler; those of others stay."""
    every = {**read(), compiler: dict(sorted(counts.items()))}
    write_text(FILE, json.dumps(dict(sorted(every.items())), indent=1) + "\n")
