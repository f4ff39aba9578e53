"""What of a training loop's `logs` the privacy guarantee covers, and the mark on what it does not.

Validation examples take no part in training, and ε, δ, the learning rate and a clipping norm found
by paid queries are settings or releases. Every other number of a training loop is computed from
training examples without noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_COVERED = "train, not covered by ε"
# How logs that come from noisy releases alone begin.
RELEASED = "released "
_COVERED = frozenset({"epsilon", "delta", "learning_rate", "clipping_norm", "clipping_threshold"})


def measured_elsewhere(name: str) -> bool:
    """Whether a key of `logs` belongs to examples that the model is not trained on."""
    return name.startswith(("val_", "test_"))


def marked(name: str) -> str:
    """The key, with the mark if ε does not cover its value."""
    covered = name in _COVERED or name.startswith(RELEASED) or measured_elsewhere(name)
    return name if covered else f"{name} ({NOT_COVERED})"


def marked_logs(logs: Mapping[str, Any] | None) -> dict[str, Any]:
    """`logs` under marked keys."""
    return {marked(name): value for name, value in (logs or {}).items()}
