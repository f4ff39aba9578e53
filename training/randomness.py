"""Every random choice of a run, from one root: replayable at any step without stored state.

A stream is named by purpose and step, so a resumed run draws at step 1,000 what an uninterrupted
one would have drawn. The root comes from the operating system's entropy unless the recipe names a
seed; a resumed run without a seed takes a new root, and what it draws is new.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import numpy as np

_ROOT_BITS = 128


@dataclass(frozen=True)
class Randomness:
    """The root of all random choices of a run.

    Attributes:
        root: The secret; with it the noise could be subtracted again.
        reproducible: Whether `root` is a recipe's seed (then the noise is no secret).
    """

    root: int
    reproducible: bool

    @classmethod
    def from_seed(cls, seed: int | None, context: str = "") -> Randomness:
        """From a recipe's seed, or from the operating system if there is none.

        Args:
            seed: The recipe's seed.
            context: Whatever else decides the run. Two runs that differ in it share no stream, so
                that the difference of their releases is no noise-free sum.
        """
        if seed is None:
            return cls(secrets.randbits(_ROOT_BITS), reproducible=False)
        if not context:
            return cls(seed, reproducible=True)
        digest = hashlib.sha256(f"{seed}:{context}".encode()).digest()
        return cls(int.from_bytes(digest[: _ROOT_BITS // 8], "big"), reproducible=True)

    @property
    def fingerprint(self) -> str:
        """Tells two roots apart without giving either away."""
        return hashlib.sha256(f"sterling-root:{self.root}".encode()).hexdigest()[:16]

    def _sequence(self, purpose: str, step: int) -> np.random.SeedSequence:
        name = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big")
        return np.random.SeedSequence(self.root, spawn_key=(name, step))

    def generator(self, purpose: str, step: int) -> np.random.Generator:
        """A fresh Philox generator for `purpose` at `step`."""
        return np.random.Generator(np.random.Philox(self._sequence(purpose, step)))

    def stateless_seeds(self, purpose: str, step: int, count: int) -> np.ndarray:
        """Seeds for TensorFlow's stateless random operations, int64 (count, 2)."""
        words = self._sequence(purpose, step).generate_state(2 * count, np.uint64)
        return words.view(np.int64).reshape(count, 2)
