import pytest


@pytest.fixture(autouse=True)
def thousands_of_tiny_tensors(one_thread: None) -> None:
    pass
