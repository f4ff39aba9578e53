"""What holds for all tests: how long one takes decides nothing."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("sterling", deadline=None)
settings.load_profile("sterling")
