"""The one error that bad input raises."""


class InputError(ValueError):
    """Bad input: the message is one whole line, `who: what should be, what was`.

    The command line prints it as it is and ends with exit code 2, so it must read well alone.
    """
