"""Tools for tests of programs that use Belvedere; part of the public package."""

from belvedere.testing.fake_engine import FakeEngine
from belvedere.testing.script import Capacity, Script
from belvedere.testing.sleep_mode import SleepScript

__all__ = ["Capacity", "FakeEngine", "Script", "SleepScript"]
