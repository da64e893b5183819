"""Which layers of a model get adapters."""

import difflib
import re
from collections.abc import Collection, Sequence

from qlora_kernels.checks import InputError
from qlora_kernels.nn.config import QLoRAConfig, ends_with


def matched_names(
    names: Sequence[str], special: Collection[str | None], config: QLoRAConfig
) -> list[str]:
    """The layers among `names` that config.targets and config.exclude choose, in order.

    special: head and embeddings, which "all-linear" leaves out. Raises InputError naming the
    nearest names for a target or an exclusion that matches nothing.
    """
    excluded = set()
    for suffix in config.exclude:
        excluded |= _ending_in(suffix, names, "exclude")
    if config.targets == "all-linear":
        chosen = set(names) - set(special)
    elif isinstance(config.targets, str):
        chosen = {n for n in names if re.fullmatch(config.targets, n)}
        if not chosen and any(n.endswith(f".{config.targets}") for n in names):
            raise InputError(
                f"prepare_model: targets, as one string, should match whole names,"
                f" {config.targets!r} is the end of some: '.*{config.targets}' matches them, as"
                " several ends in a list do"
            )
        if not chosen:
            raise _nothing("targets", config.targets, names)
    else:
        chosen = set()
        for suffix in config.targets:
            chosen |= _ending_in(suffix, names, "targets")
    if chosen and chosen <= excluded:
        raise InputError("prepare_model: exclude should leave a layer for adapters, leaves none")
    return [n for n in names if n in chosen - excluded]


def check_patterns(linear: Sequence[str], every: Sequence[str], config: QLoRAConfig) -> None:
    """Raise InputError naming the nearest names for a pattern that matches nothing.

    linear: layers that are quantized, of which the head is none unless it is asked for; every:
    those that could have an adapter.
    """
    for field, patterns, names in (
        ("format", config.format_pattern, linear),
        ("rank_pattern", config.rank_pattern, every),
        ("alpha_pattern", config.alpha_pattern, every),
    ):
        for pattern in patterns:
            if not any(ends_with(pattern, name) for name in names):
                raise _nothing(field, pattern, names)


def _ending_in(suffix: str, names: Sequence[str], field: str) -> set[str]:
    """The names that are `suffix` or end in `.suffix`."""
    found = {n for n in names if n == suffix or n.endswith(f".{suffix}")}
    if not found:
        raise _nothing(field, suffix, names)
    return found


def _nothing(field: str, pattern: str, names: Sequence[str]) -> InputError:
    """The error of a pattern without a match, with the names that come nearest."""
    # Suffixes of every length are what a user may have meant.
    suffixes = {".".join(n.split(".")[i:]) for n in names for i in range(n.count(".") + 1)}
    nearest = difflib.get_close_matches(pattern, sorted(suffixes), n=3, cutoff=0.4)
    if not nearest:
        nearest = sorted({n.rpartition(".")[2] for n in names})[:8]
    return InputError(
        f"prepare_model: {field} should match a linear layer, {pattern!r} matches none; "
        f"nearest: {', '.join(nearest)}"
    )
