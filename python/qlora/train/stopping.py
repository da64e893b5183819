"""When validation says that it is enough."""


def exhausted(evaluations_without_gain: int, patience: int) -> bool:
    """Whether `patience` evaluations in a row brought nothing; patience 0 never stops."""
    return 0 < patience <= evaluations_without_gain
