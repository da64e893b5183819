from app.lint.conftest import write

__all__ = ["write"]  # the fixture
