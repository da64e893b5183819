"""Every adapter and the merge on every task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import qlora_kernels as qk
from qlora.evaluate import EvaluateSettings, read_rows
from qlora.merge.merge import Watch
from qlora_kernels.errors import InputError

if TYPE_CHECKING:
    from qlora.evaluation import Evaluation


def evaluate_matrix(
    settings: EvaluateSettings,
    tasks: Mapping[str, Path],
    adapters: Mapping[str, Path],
    watch: Watch = lambda what, done, count: None,
) -> "dict[str, dict[str, Evaluation]]":
    """Evaluate `base` and each adapter on each task: who -> task -> Evaluation.

    The model of `settings` is loaded once (its data and adapter are not looked at). Raises
    InputError as `qlora evaluate` does.
    """
    from qlora.data.encode import pad_token  # with transformers: seconds to import
    from qlora.evaluation import evaluate
    from qlora.models import load_prepared

    model, tokenizer = load_prepared(settings.model, list(adapters.values()), settings.layers)
    rows = {task: read_rows(settings, data, model, tokenizer) for task, data in tasks.items()}
    how = pad_token(tokenizer), settings.batch_size
    found: dict[str, dict[str, Evaluation]] = {}
    who: Sequence[tuple[str, Path | None]] = [("base", None), *adapters.items()]
    for number, (name, adapter) in enumerate(who):
        if adapter is not None:
            qk.load_adapter(model, adapter)
        found[name] = {}
        for place, task in enumerate(tasks):
            watch(f"{name} on {task}", number * len(tasks) + place, len(who) * len(tasks))
            found[name][task] = evaluate(model, rows[task], *how)
    watch("evaluated", len(who) * len(tasks), len(who) * len(tasks))
    return found


def check_tasks(tasks: Mapping[str, Path], model: Path | None) -> None:
    """Refuse, before hours of merging, what the evaluation would refuse after them."""
    if tasks and model is None:
        raise InputError("merge: --eval-data needs --model, the base to evaluate on; was not given")
    for task, path in tasks.items():
        if not path.is_file():
            raise InputError(f"merge: the data of {task}, {path}, should be a file, is not")
