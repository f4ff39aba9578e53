"""Errors meant for people: one clear line, no traceback.

A command turns a `UserError` into that line on standard error and exit code 2. Everything else
that is raised is a defect of Sterling and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class UserError(Exception):
    """What a user can put right: bad configuration, data, checkpoint or request."""


class SettingError(UserError, ValueError):
    """A setting whose value cannot be used.

    Args:
        key: Dotted name of the setting, as written in a recipe (`privacy.epsilon`).
        value: The value received.
        expected: What would have been accepted, in words.
    """

    def __init__(self, key: str, value: Any, expected: str):
        self.key, self.value, self.expected = key, value, expected
        super().__init__(f"{key}: expected {expected}. Received: {value!r}")


def require(condition: bool, key: str, value: Any, expected: str) -> None:
    """Raises `SettingError` unless `condition` holds."""
    if not condition:
        raise SettingError(key, value, expected)


def require_once_each(key: str, names: Sequence[str]) -> None:
    """Raises `SettingError` if one of `names` is listed twice: it would be compared, fed or
    bounded beside itself."""
    require(
        len(set(names)) == len(names), key, list(names), "a list in which every name stands once"
    )
