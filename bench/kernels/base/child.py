"""`python -m bench.kernels.base.child TREE BACKEND DEVICE`: answers the questions of process.py."""

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import qlora_kernels as qk
from bench.kernels import ops
from bench.kernels.case import Case
from bench.kernels.check import PASSED
from bench.kernels.clock import Stopwatch, rested
from bench.kernels.measure import Session, prepare
from bench.kernels.roof import stopwatch


def prepared(session: Session, question: dict[str, Any]) -> Stopwatch:
    """A stopwatch over what has passed its check; RuntimeError says what has not."""
    case = Case(question["op"], **question["case"])
    op = ops.load(case.op)
    problems = [op.problem(case, session.device, i) for i in range(question["copies"])]
    contest = prepare(session, op, problems)
    if contest.red:
        raise RuntimeError(f"it is red: {contest.red}")
    return rested(stopwatch(contest.contenders[0], session.device))


def main() -> None:
    tree, backend, device = sys.argv[1:]
    library = Path(qk.__file__).parents[1]
    if library != Path(tree):
        raise SystemExit(f"qlora_kernels should come from {tree}, came from {library}")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever prints, prints elsewhere
    session = Session(backend, {}, device, {}, {})
    sample: Callable[[], float] | None = None
    gc.disable()
    with qk.use_backend(backend):
        for line in sys.stdin:
            question = json.loads(line)
            answer: dict[str, object]
            try:
                if "sample" in question:
                    assert sample is not None, "a case comes before its samples"
                    answer = {"ms": sample()}
                else:
                    sample = None  # frees the last case
                    gc.collect()
                    sample = prepared(session, question)
                    answer = {"check": PASSED}
            except (
                Exception
            ) as error:  # an older library may lack anything that the harness asks for
                answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
