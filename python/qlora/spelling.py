"""Unknown names are refused with the nearest known one."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`; did you mean 'rank'?` where a known name is near, else nothing."""
    nearest = get_close_matches(str(word), list(known), n=1)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


def refuse_unknown(where: str, keys: Iterable[object], known: Iterable[str]) -> None:
    """Raise InputError for the first of `keys` that is none of `known`."""
    from qlora_kernels.errors import InputError  # torch comes with it: `qlora --help` needs none

    known = list(known)
    for key in keys:
        if key not in known:
            hint = did_you_mean(key, known) or f" (known: {', '.join(known)})"
            raise InputError(f"{where}: unknown key {key!r}{hint}")
