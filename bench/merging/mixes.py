"""What is judged: the base, each adapter alone, and their merges."""

from dataclasses import dataclass

from bench.merging.tasks import SKILLS, STYLES
from qlora.merge import MergeSpec


@dataclass(frozen=True)
class Mix:
    """`spec` applied to the adapters of the tasks `parents`; without spec the one parent itself.

    Neither: the base.
    """

    title: str
    parents: tuple[str, ...] = ()
    spec: MergeSpec | None = None


def _sum(*weights: float) -> MergeSpec:
    return MergeSpec("task-arithmetic", weights)


# How much of two skills is left in one merge.
MERGED_SKILLS = {
    "base": Mix("base model"),
    "intents": Mix("intents alone", ("intents",)),
    "categories": Mix("categories alone", ("categories",)),
    "both": Mix("one adapter trained on both", ("both",)),
    "average": Mix("average", SKILLS, MergeSpec("average")),
    "sum": Mix("task arithmetic, weights 1, 1", SKILLS, _sum(1, 1)),
    "smaller-sum": Mix("task arithmetic, weights 0.75, 0.75", SKILLS, _sum(0.75, 0.75)),
    "ties": Mix("TIES, density 0.2", SKILLS, MergeSpec("ties")),
    "dare-ties": Mix("DARE-TIES, density 0.2", SKILLS, MergeSpec("dare-ties")),
}

# Whether a skill can be taken out again: the adapter of both tasks minus the adapter of one.
SUBTRACTED_SKILLS = {
    f"both-{weight}-{task}": Mix(f"both - {weight:g} {task}", ("both", task), _sum(1, -weight))
    for task in SKILLS
    for weight in (0.25, 0.5, 1.0)
}

# What two adapters that contradict each other make together.
MERGED_STYLES = {
    "base": Mix("base model"),
    "short": Mix("short alone", ("short",)),
    "long": Mix("long alone", ("long",)),
    "average": Mix("average", STYLES, MergeSpec("average")),
    "mostly-long": Mix("average, weights 1 short, 3 long", STYLES, MergeSpec("average", (1, 3))),
    "ties": Mix("TIES, density 0.2", STYLES, MergeSpec("ties")),
    "short-0.5-long": Mix("short - 0.5 long", STYLES, _sum(1, -0.5)),
}
