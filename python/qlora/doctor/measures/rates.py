"""How the run's learning rate was shared between the factors of an adapter.

A rate that is given alone is both factors' (`qlora train --help`), so that advice on the rate of a
LoRA+ run must name its ratio too, or it would turn LoRA+ off.
"""

from qlora.doctor.facts import Fact
from qlora.doctor.subject import Subject


def measure(subject: Subject) -> list[Fact]:
    """lora_plus_ratio."""
    ratio = subject.settings.decided.lora_plus_ratio
    return [Fact("lora_plus_ratio", ratio, detail=f"the rate of B is {ratio:g}x that of A")]
