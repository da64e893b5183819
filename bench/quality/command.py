"""`python -m bench quality`: run what is not finished yet, then make the page of all that is."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from bench.merging.wordnet import fetch_wordnet
from bench.quality.finished import Finished, by_configuration, estimated_minutes
from bench.quality.page import write_pages
from bench.quality.plan import CONFIGURATIONS, SEEDS, Run, runs
from qlora.demo.fetch import fetch_model
from qlora.spelling import did_you_mean
from qlora_kernels.errors import InputError

HELP = """\
What base formats and training methods are worth on SmolLM2: right answers, loss and what is
forgotten, three seeds each, and whether what the literature claims holds here. Short runs in a
process each, about 2 minutes of one core; finished ones are never run again, so it can be
interrupted at any time. With OMP_NUM_THREADS=1 two may run side by side.
  --plan         what is left, and how long it will take
  --only NAME    these configurations alone
  --page         run nothing: page and pictures of what there is
  --frontier     only what the frontier shows: parameters against accuracy, memory, forgetting
  --calls        what a call of each of its members costs, side by side, and the page (2 minutes)"""

RESULTS = Path("bench/results/quality")
TAIL = 500  # characters of what a process said before it died
say = partial(print, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", action="store_true", help="list the runs and run none")
    parser.add_argument("--page", action="store_true", help="make the page and run none")
    parser.add_argument("--frontier", action="store_true", help="its configurations only")
    parser.add_argument("--calls", action="store_true", help="what a call costs, and no runs")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these configurations only")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), metavar="N")
    parser.add_argument("--most", type=int, metavar="N", help="stop after so many runs")
    parser.add_argument("--folder", type=Path, default=Path("runs/quality"), help="a file a run")
    parser.add_argument("--output", type=Path, default=RESULTS, help="record, page and pictures")


def run(arguments: argparse.Namespace) -> int:
    finished = Finished(arguments.folder, arguments.output / "record.json")
    left = pending(chosen(arguments), finished)
    if arguments.plan:
        print(described(left, finished))
        return 0
    failed = 0
    if arguments.calls:
        from bench.quality.calls import measured

        finished.keep_calls(measured(fetch_model(say)))
    elif not arguments.page:
        failed = take_all(left[: arguments.most], finished)
    path = write_pages(finished, arguments.output)
    say(f"written to {path}")
    return int(failed > 0)


def chosen(arguments: argparse.Namespace) -> Iterable[Run]:
    """By --only or --frontier, in the plan's order."""
    from bench.quality.frontier import MEMBERS

    names: Sequence[str] = arguments.only or (list(MEMBERS) if arguments.frontier else [])
    for name in names:
        if name not in CONFIGURATIONS:
            hint = did_you_mean(name, CONFIGURATIONS) or f" (known: {', '.join(CONFIGURATIONS)})"
            raise InputError(f"quality: --only should name configurations, was {name!r}{hint}")
    return [r for r in runs(arguments.seeds) if not names or r.configuration.name in names]


def pending(wanted: Iterable[Run], finished: Finished) -> list[Run]:
    """Those without a result."""
    done = finished.all()
    return [one for one in wanted if one.name not in done]


def described(left: Sequence[Run], finished: Finished) -> str:
    """A line a run, and the sum."""
    results = by_configuration(finished.all())
    minutes = [estimated_minutes(one, results) for one in left]
    lines = [
        f"{one.name:32} {m:5.1f} min  {one.configuration.title}"
        for one, m in zip(left, minutes, strict=True)
    ]
    done = sum(map(len, results.values()))
    return "\n".join([*lines, f"{done} finished, {len(left)} left: {sum(minutes):.0f} minutes"])


def take_all(left: Sequence[Run], finished: Finished) -> int:
    """One after the other; those that fail are told and left for another time. How many did."""
    failed = 0
    try:
        for one in left:
            try:
                take(one, finished)
            except InputError as error:
                say(str(error))
                failed += 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
    return failed


def take(one: Run, finished: Finished) -> None:
    """Run it in a process of its own and keep what it found."""
    model, wordnet = fetch_model(say), fetch_wordnet(say)
    words = [str(model), str(wordnet), one.configuration.name, str(one.seed)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-m", "bench.quality.process", *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        said = " ".join(result.stderr.split())[-TAIL:]
        raise InputError(f"quality: {one.name} should run, did not: {said}")
    found = json.loads(result.stdout.splitlines()[-1])
    finished.keep(one, found)
    shown = ("right", "loss", "english", "python", "intents_right", "peak_mib", "diverged")
    told = ", ".join(f"{k} {_told(found[k])}" for k in shown if k in found)
    say(f"{one.name}: {told}, {found['cpu_seconds']:.0f} s")


def _told(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
