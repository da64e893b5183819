"""A diagnosis as an experienced colleague would tell it."""

import textwrap
from collections.abc import Iterator

from qlora.doctor.diagnosis import Diagnosis, Finding

WIDTH = 100
MEASURED = "captured_gradient"  # a fact that only the opened model gives
LONG_ENOUGH = "trend"  # a fact that a handful of records does not give
RECENT = ("drift_recent", "drift_recent_tokens", "recent_loss_increase")  # what --recent asks for
CLEARLY, PROBABLY = 0.8, 0.5  # confidence from which a finding is told as certain, as likely


def describe(diagnosis: Diagnosis, name: str) -> str:
    """Findings, most certain first; or what was looked at and found well."""
    lines = [f"{name}: {_headline(diagnosis)}"]
    for number, finding in enumerate(diagnosis.findings, start=1):
        lines += ["", *_describe(finding, number)]
    answers = tuple(diagnosis.facts[name].detail for name in RECENT if name in diagnosis.facts)
    if answers:
        lines += ["", "the recent file", *_items(answers)]
    if diagnosis.healthy and diagnosis.looked_at:
        lines += ["", "looked at", *_items(diagnosis.looked_at)]
    if diagnosis.not_measured:
        lines += ["", "not looked at", *_items(diagnosis.not_measured)]
    return "\n".join(lines)


def _headline(diagnosis: Diagnosis) -> str:
    if diagnosis.healthy:
        if not diagnosis.looked_at:
            return "nothing to go by was recorded"
        if MEASURED not in diagnosis.facts and LONG_ENOUGH not in diagnosis.facts:
            return "no fault shows, but so few records say little either way"
        if MEASURED not in diagnosis.facts:
            return "its curves look healthy; what they cannot show was not looked at"
        return "healthy; nothing that was looked at speaks for a fault"
    first = diagnosis.findings[0]
    sure = (
        "this is"
        if first.confidence >= CLEARLY
        else "most likely"
        if first.confidence >= PROBABLY
        else "something is wrong, and the likeliest of what it could be is"
    )
    more = len(diagnosis.findings) - 1
    others = f", and {more} more below" if more else ""
    return f"{sure} {first.cause}{others}"


def _describe(finding: Finding, number: int) -> Iterator[str]:
    perhaps = "" if finding.confidence >= PROBABLY else "Perhaps: "
    sure = f"{finding.cause}, confidence {finding.confidence:.0%}"
    yield f"{number}. {perhaps}{finding.title} ({sure})"
    yield from _items(finding.evidence)
    for cause, why in finding.ruled_out:
        yield from _paragraph(f"   not {cause}: ", why)
    for question in finding.unsettled:
        yield from _paragraph("   open: ", question)
    yield from _paragraph("   fix         ", finding.fix)
    yield from _paragraph("   experiment  ", finding.experiment)
    for place, step in enumerate(finding.next_steps):
        yield from _paragraph("   if not      " if place == 0 else "   then        ", step)


def _items(sentences: tuple[str, ...]) -> Iterator[str]:
    for sentence in sentences:
        yield from _paragraph("   - ", sentence)


def _paragraph(start: str, text: str) -> list[str]:
    indent = " " * len(start) if len(start) < WIDTH / 4 else " " * 5
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=indent, break_on_hyphens=False
    )
