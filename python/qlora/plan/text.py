"""Plans for people and for programs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from qlora.plan.history import GIGABYTE, Row
from qlora.plan.memory import Forecast
from qlora.plan.solve import Limits, limits

LABEL, COLUMN = 24, 10  # characters
# What to try where a method does not fit, cheapest first, each with those before it.
REMEDIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--gradient-checkpointing", {"gradient_checkpointing": True}),
    ("--optimizer adamw-8bit", {"optimizer": "adamw-8bit"}),
    ("--batch-size 1", {"batch_size": 1}),
    ("--optimizer paged-adamw-8bit", {"optimizer": "paged-adamw-8bit"}),
)


@dataclass(frozen=True)
class Answer:
    """A forecast, and what the solver says where --memory was given."""

    forecast: Forecast

    @cached_property
    def limits(self) -> Limits | None:
        """What fits, or None where nobody asked."""
        return None if self.forecast.settings.memory is None else limits(self.forecast)

    @property
    def toggled(self) -> int:
        """Bytes with checkpointing instead of without, or the other way round."""
        on = self.forecast.settings.gradient_checkpointing
        return self.forecast.changed(gradient_checkpointing=not on).total

    def remedy(self) -> str:
        """The flags with which the method fits; empty where none of them is enough."""
        forecast = self.forecast
        flags: list[str] = []
        for flag, change in REMEDIES:
            forecast = forecast.changed(**change)
            flags = [old for old in flags if old.split()[0] != flag.split()[0]] + [flag]
            if forecast.fits:
                return " ".join(flags)
        return ""

    def record(self) -> dict[str, Any]:
        """For programs."""
        forecast = self.forecast
        on = forecast.settings.gradient_checkpointing
        return {
            "components": forecast.components,
            "total_bytes": forecast.total,
            "total_bytes_without_checkpointing": self.toggled if on else forecast.total,
            "total_bytes_with_checkpointing": forecast.total if on else self.toggled,
            "trained": forecast.trained,
            "reduction": forecast.model.weights / forecast.trained,
            "fits": None if self.limits is None else forecast.fits,
            "limits": None if self.limits is None else asdict(self.limits),
        }


def plan_lines(answers: Sequence[Answer]) -> list[str]:
    """A column for each method."""
    first = answers[0].forecast
    model, settings = first.model, first.settings
    lines = [
        f"{model.name} ({model.family}): {model.weights:,} weights, {settings.batch_size} x"
        f" {settings.sequence_length} tokens, rank {settings.rank}, {settings.optimizer};"
        " GB = 10^9 bytes",
        "",
        _line("", [answer.forecast.method for answer in answers]),
    ]

    def row(label: str, cell: Callable[[Answer], str]) -> None:
        lines.append(_line(label, [cell(answer) for answer in answers]))

    for name in first.components:
        row(name, lambda answer, name=name: _gb(answer.forecast.components[name]))  # type: ignore[misc]
    row("total", lambda answer: _gb(answer.forecast.total))
    word = "without" if settings.gradient_checkpointing else "with"
    row(f"{word} checkpointing", lambda answer: _gb(answer.toggled))
    row("trained", lambda answer: _count(answer.forecast.trained))
    row("fewer than all", lambda answer: f"{model.weights / answer.forecast.trained:.0f}x")
    lines += ["", *_one_adapter(answers)]
    return [*lines, *_limit_lines(answers)] if settings.memory else lines


def table_lines(rows: Sequence[Row]) -> list[str]:
    """The 65B table, with each row's assumptions below it."""
    lines = [f"{'method':8}{'year':>6}{'quoted GB':>11}{'predicted':>11}{'off':>8}"]
    for row in rows:
        mark = "" if row.near else "  *"
        lines.append(
            f"{row.method:8}{row.year:6}{row.quoted_gb:11.0f}{row.predicted_gb:11.1f}"
            f"{row.off:+8.1%}{mark}"
        )
    lines += [
        "",
        "llama-65b, one row of 512 tokens, rank 64 on all linear layers; each row assumes:",
    ]
    lines += [f"{row.method}: {row.assumes} ({row.source})" for row in rows]
    return lines


def _limit_lines(answers: Sequence[Answer]) -> list[str]:
    settings = answers[0].forecast.settings
    of = f"{settings.memory} less {settings.reserve}" if settings.reserve else settings.memory
    lines = ["", _line(f"fits {of}", ["yes" if a.forecast.fits else "no" for a in answers])]
    found = [answer.limits for answer in answers]
    for name in ("longest_sequence", "largest_batch", "highest_rank"):
        values = [getattr(limit, name) for limit in found]
        cells = ["-" if value is None else f"{value:,}" if value else "none" for value in values]
        lines.append(_line(name.replace("_", " "), cells))
    lines.append("each with the other settings as given")
    for answer in answers:
        if not answer.forecast.fits:
            flags = answer.remedy()
            text = (
                f"fits with {flags}" if flags else "does not fit, whatever is recomputed or paged"
            )
            lines.append(f"{answer.forecast.method} {text}")
    return lines


def _one_adapter(answers: Sequence[Answer]) -> list[str]:
    """As the field counts: an adapter beside the weight that it stands for."""
    adapted = [answer.forecast for answer in answers if answer.forecast.adapted]
    if not adapted:
        return []
    layer, rank = adapted[0].adapted[0], adapted[0].settings.rank
    count = rank * (layer.n + layer.k)
    return [
        f"one adapter, {layer.name} [{layer.n}, {layer.k}]: {count:,} parameters for"
        f" {layer.weights:,}, {layer.weights / count:.0f}x fewer"
    ]


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label:{LABEL}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells)


def _gb(count: int) -> str:
    return f"{count / GIGABYTE:.3f}" if count else "-"


def _count(count: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.2f}{unit}"
    return str(count)
