"""What every way of sampling offers to the plan and to the feed."""

from __future__ import annotations

from typing import ClassVar, Protocol

from training.batching import Sampler
from training.randomness import Randomness


class Sampling(Protocol):
    """A way of sampling: public numbers only.

    Attributes:
        method: Its name in recipes and ledgers.
        num_examples: Training examples N; public.
        batch_size: Expected examples a step; public. Noisy sums are divided by it.
    """

    method: ClassVar[str]

    @property
    def num_examples(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    def sampler(self, randomness: Randomness) -> Sampler:
        """What draws the batches of a run."""
        ...

    def describe(self) -> str:
        """One clause for the statement of the guarantee."""
        ...
