"""The methods of merging, one file each: a new one is a file and an entry here.

t is the update of an adapter, w its weight; lambda multiplies every result.
"""

from qlora.merge.method import Method
from qlora.merge.methods.average import average
from qlora.merge.methods.dare import dare
from qlora.merge.methods.dare_ties import dare_ties
from qlora.merge.methods.task_arithmetic import task_arithmetic
from qlora.merge.methods.ties import ties

METHODS = {
    "average": Method(average, "sum of w t, divided by the sum of w", "core"),
    "task-arithmetic": Method(task_arithmetic, "sum of w t; w < 0 takes a skill away", "core"),
    "ties": Method(
        ties,
        "largest entries of each t, a sign per entry by the sum of w t, mean of those that agree",
        "standard",
        ("density", "trim_scope"),
    ),
    "dare": Method(
        dare,
        "drop entries of each t at random, divide the rest by the density, sum of w t",
        "standard",
        ("density", "seed"),
    ),
    "dare-ties": Method(
        dare_ties,
        "drop as dare does, a sign per entry as in ties, sum of those that agree",
        "standard",
        ("density", "seed"),
    ),
}
