"""What every clipping method offers to the plan and to the step."""

from __future__ import annotations

from typing import ClassVar, Protocol


class ClipMethod(Protocol):
    """A way of bounding per-example gradients: public numbers only.

    Attributes:
        method: Its name in recipes and ledgers.
        clipping_norm: L2 sensitivity of the sum to adding or removing one example.
    """

    method: ClassVar[str]

    @property
    def clipping_norm(self) -> float: ...

    def describe(self) -> str:
        """One clause for the statement of the guarantee."""
        ...
