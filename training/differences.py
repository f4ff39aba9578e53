"""In which settings two documents (recipes, plans, dataset cards) differ, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHOWN = 3


def differences(there: Any, here: Any) -> str:
    """The first settings in which two nested mappings differ; "" if they are the same."""
    old, new = _flat(there), _flat(here)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    shown = [f"{key} is {old.get(key)!r} there, {new.get(key)!r} here" for key in keys[:_SHOWN]]
    return "; ".join([*shown, *(["..."] if len(keys) > len(shown) else [])])


def _flat(document: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(document, Mapping) or not document:
        return {prefix.rstrip("."): document}
    return {
        key: value
        for name, inner in document.items()
        for key, value in _flat(inner, f"{prefix}{name}.").items()
    }
