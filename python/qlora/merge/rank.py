"""How many singular values are kept: a number, all of them, or a share of the energy."""

from qlora_kernels.errors import InputError

# The smallest error that float32 factors can show: four units in the last place.
FULL_ERROR = 2.0**-21


def check_rank(text: str) -> None:
    """Refuse what is no rank: `16`, `full` or `energy:0.99`."""
    if text == "full":
        return
    kind, _, value = text.rpartition(":")
    try:
        if (kind == "" and int(value) >= 1) or (kind == "energy" and 0.0 < float(value) <= 1.0):
            return
    except ValueError:
        pass
    raise InputError(
        f"merge: rank should be a number from 1, full, or energy:X with X in (0, 1], was {text!r}"
    )


def fixed_rank(text: str) -> int | None:
    """The number, or None where the spectrum decides."""
    return int(text) if text.isdigit() else None


def choose_rank(text: str, energies: list[float]) -> int:
    """The smallest r whose first r of `energies` (squared singular values, falling) suffice.

    full: the relative Frobenius error sqrt(rest / all) is at most 2^-21, which float32 factors
    cannot improve. energy:X: first / all is at least X. Never below 1: a zero update keeps one
    (zero) direction, since peft's files know no rank 0.
    """
    number = fixed_rank(text)
    full = _smallest(energies, sum(energies) * FULL_ERROR**2)
    if number is not None:
        return max(1, min(number, full))
    if text == "full":
        return max(1, full)
    share = float(text.partition(":")[2])
    return max(1, min(full, _smallest(energies, sum(energies) * (1.0 - share))))


def _smallest(energies: list[float], allowed: float) -> int:
    """The smallest r with sum(energies[r:]) <= allowed, summed from the small end."""
    rest, rank = 0.0, len(energies)
    while rank and rest + energies[rank - 1] <= allowed:
        rank -= 1
        rest += energies[rank]
    return rank
