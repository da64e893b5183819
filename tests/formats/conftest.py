import pytest


@pytest.fixture(autouse=True)
def thousands_of_tiny_tensors_in_poisoned_memory(one_thread: None, poison: None) -> None:
    pass
