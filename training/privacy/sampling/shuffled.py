"""Shuffled epochs, as ordinary training has them, without any claim of amplification.

Guarantees (what epsilon depends on):
    Each example takes part in exactly one step of every epoch, at a place that depends on no
    data. That alone is used: an epoch costs one Gaussian release, however the order came about,
    and may even be known. (Shuffling is often accounted as if it were Poisson sampling; Chua et
    al. 2024, arXiv:2403.17673, show that this can understate epsilon by far.)

Proven where N stays as it is (replacing or blanking an example): one more example would move all
others' places, so add/remove is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from configs.schema import SamplingSettings
from training.batching import Sampler, ShuffledSampler
from training.randomness import Randomness


@dataclass(frozen=True)
class ShuffledSampling:
    """Each epoch a random order of all examples, cut into batches of `batch_size`."""

    method: ClassVar[str] = "shuffled"
    num_examples: int
    batch_size: int

    @classmethod
    def from_settings(
        cls, settings: SamplingSettings, num_examples: int, batch_size: int
    ) -> ShuffledSampling:
        return cls(num_examples, batch_size)

    @property
    def period(self) -> int:
        """Steps of an epoch."""
        return -(-self.num_examples // self.batch_size)

    @property
    def capacity(self) -> int:
        return self.batch_size

    def sampler(self, randomness: Randomness) -> Sampler:
        return ShuffledSampler(self.num_examples, self.batch_size, randomness)

    def describe(self, unit: str = "example") -> str:
        return (
            f"each of {self.num_examples} {unit}s once in every epoch of {self.period} steps, in "
            f"batches of {self.batch_size} (shuffled; no privacy amplification is claimed)"
        )
