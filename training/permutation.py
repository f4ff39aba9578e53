"""A random order of 0 .. size-1 that can be read anywhere without being written out.

Small sets are permuted by NumPy, exactly uniformly, and the order is kept for the next step of the
same epoch. A billion examples would take eight gigabytes: above `EXACT_SIZE` the order is a keyed
Feistel network (Luby and Rackoff 1988) on the next power of four, walked until it lands inside the
set again (Black and Rogaway 2002). That is a bijection for every key, costs time and memory in the
positions asked for alone, and passes for random to statistics; it is no cipher.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from training.randomness import Randomness

# Up to here an order is held in memory: 16 MiB.
EXACT_SIZE = 1 << 21
_ROUNDS = 10


@dataclass(frozen=True)
class Permutation:
    """A random bijection on 0 .. size-1; the same for the same randomness, purpose and number.

    Attributes:
        size: Elements.
        randomness: Where it comes from.
        purpose: Name of the stream.
        number: Which of the stream's permutations (an epoch).
    """

    size: int
    randomness: Randomness
    purpose: str
    number: int

    def take(self, first: int, last: int) -> np.ndarray:
        """The elements at positions `first` to `last`, int64 (last - first,)."""
        return self.at(np.arange(first, last, dtype=np.int64))

    def at(self, positions: np.ndarray) -> np.ndarray:
        """The elements at `positions`, int64 (k,)."""
        return _exact(self)[positions] if self.size <= EXACT_SIZE else self.walked(positions)

    def walked(self, positions: np.ndarray) -> np.ndarray:
        """The elements at `positions` of the order that large sets take, int64 (k,)."""
        half = max(1, -(-(self.size - 1).bit_length() // 2))
        keys = self.randomness.generator(self.purpose, self.number).integers(
            0, 2**64, _ROUNDS, dtype=np.uint64
        )
        found = _feistel(positions.astype(np.uint64), half, keys)
        outside = np.flatnonzero(found >= self.size)
        while len(outside):
            found[outside] = _feistel(found[outside], half, keys)
            outside = outside[found[outside] >= self.size]
        return found.astype(np.int64)


@lru_cache(maxsize=4)
def _exact(order: Permutation) -> np.ndarray:
    generator = order.randomness.generator(order.purpose, order.number)
    return generator.permutation(order.size)


def _feistel(values: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    """A bijection on 2 * half bits."""
    mask = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << np.uint64(half)) | right


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), twice."""
    for _ in range(2):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        values = values ^ (values >> np.uint64(31))
    return values
