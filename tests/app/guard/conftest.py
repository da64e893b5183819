"""The small runs of tests/app/train."""

from app.train.conftest import one_thread, settings, settings_in

__all__ = ["one_thread", "settings", "settings_in"]
