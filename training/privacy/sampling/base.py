"""What every way of sampling offers to the plan and to the feed."""

from __future__ import annotations

from typing import ClassVar, Protocol

from training.batching import Sampler
from training.randomness import Randomness


class Sampling(Protocol):
    """A way of sampling: public numbers only.

    What it calls examples are users where the plan's unit is a user. One that
    `privacy.sampling.method` names is made by its `from_settings(settings, num_examples,
    batch_size)`.

    Attributes:
        method: Its name in recipes and ledgers.
        num_examples: Training examples N, or users; public.
        batch_size: Expected examples, or users, a step; public. Noisy sums are divided by it.
        period: Steps after which it begins afresh, independently of all before: 1 where every step
            does, an epoch's steps where each example takes part once an epoch. Where it is more
            than 1 a run that is resumed must go on drawing from the root it began with
            (`PrivacyPlan.needs_one_root`): an epoch begun anew halfway would use examples twice.
        capacity: Most examples a step can have; None where a draw has no bound but N.
    """

    method: ClassVar[str]

    @property
    def num_examples(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def period(self) -> int: ...

    @property
    def capacity(self) -> int | None: ...

    def sampler(self, randomness: Randomness) -> Sampler:
        """What draws the batches of a run."""
        ...

    def describe(self, unit: str = "example") -> str:
        """One clause for the statement of the guarantee, in which a record is called `unit`."""
        ...
