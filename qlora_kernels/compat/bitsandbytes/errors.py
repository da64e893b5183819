"""Bad input by the kinds of error that bitsandbytes ends in, with messages that name the input.

Each is an InputError too, hence a ValueError: code written for either library catches it.
"""

from qlora_kernels.errors import InputError


class MisfitError(InputError, RuntimeError):
    """Tensors whose sizes, layouts or dtypes do not fit: torch's RuntimeError there."""


class StateError(InputError, AssertionError):
    """A weight, a dict or a map that is not as an assert there demands."""


class MissingKeyError(InputError, KeyError):
    """A part that a dict lacks."""

    # KeyError's own would put the message in quotes.
    __str__ = InputError.__str__


class UnsupportedError(InputError, NotImplementedError):
    """An option that is not implemented, there either."""
