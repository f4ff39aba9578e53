r"""A noisy histogram of people by group, label and score: what private thresholds are fitted on.

The histogram is h in R^(G x 2 x K): h[g, y, k] counts the validation examples of group g and label
y whose score lies in the k-th of K equal bins of [0, 1]. Released is h + z, with independent
z_i ~ N(0, (sigma * s)^2) on every cell, empty ones too.

Guarantees:
    *Sensitivity.* Which cells there are is public: groups and labels by name, bins by number.
    Example x adds the indicator e(x) of one single cell, whatever its score (scores that are no
    numbers go to bin 0), so h(D) = sum over x in D of e(x), with ||e(x)||_2 = 1. Hence

        add_remove, zero_out:  ||h(D + x) - h(D)||_2 = ||e(x)||_2 = 1             =: s
        replace_one:           ||h(D - x + x') - h(D)||_2 = ||e(x') - e(x)||_2
                               <= sqrt(2), reached where the cells differ          =: s

    The release is the Gaussian mechanism of noise multiplier sigma (Dwork & Roth 2014, theorem
    A.1; here priced exactly by dp_accounting's `GaussianDpEvent(sigma)`): (epsilon,
    delta)-differentially private for one validation example. Thresholds computed from it alone
    cost nothing more (post-processing).

    *Beside training.* Training and validation are disjoint sets of examples and which is which is
    assumed public. The scores are a function of the trained weights, themselves a release that
    reads no validation example (early stopping on validation is refused where this is used). For
    a training example with the validation set fixed, the histogram is post-processing of the
    weights; for a validation example the weights are a constant. So each example is covered by
    the guarantee of its own split, and both together by the larger epsilon and delta (parallel
    composition, McSherry 2009, theorem 4).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import dp_accounting
import numpy as np
import tensorflow as tf

from configs.schema import SettingError
from training.privacy.accounting import calibrate_noise, default_delta, epsilon_of
from training.privacy.noise import ReplayableGaussianSumQuery
from training.randomness import Randomness

SENSITIVITY = {"add_remove": 1.0, "zero_out": 1.0, "replace_one": math.sqrt(2.0)}


@dataclass(frozen=True)
class HistogramRelease:
    """What one release of the histogram costs, and the only thing that makes one.

    Attributes:
        epsilon: What one release may cost the people of the validation split.
        delta: Probability with which that may fail.
        neighbours: What is hidden: `add_remove`, `zero_out` or `replace_one`.
        bins: Bins of the score.
    """

    epsilon: float
    delta: float
    neighbours: str
    bins: int

    @classmethod
    def from_settings(
        cls, epsilon: float, delta: float | None, neighbours: str, bins: int, examples: int
    ) -> HistogramRelease:
        """The release that `decision.epsilon`, `delta` and `bins` ask for.

        Args:
            epsilon: As the class.
            delta: As the class; None takes N^-1.1.
            neighbours: As the training plan's.
            bins: As the class.
            examples: N, the validation examples; public.

        Raises:
            SettingError: If delta would allow publishing a record.
        """
        chosen = default_delta(examples) if delta is None else delta
        if chosen >= 1.0 / examples:
            raise SettingError(
                "decision.delta",
                chosen,
                f"less than 1/N = {1 / examples:.3g} of the {examples} validation examples",
            )
        return cls(epsilon, chosen, neighbours, bins)

    @property
    def sensitivity(self) -> float:
        """Bound on the L2 distance of the histograms of two neighbours."""
        return SENSITIVITY[self.neighbours]

    @cached_property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over the sensitivity; the least that suffices."""
        return calibrate_noise(dp_accounting.GaussianDpEvent, self.epsilon, self.delta)

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on each cell, in people."""
        return self.noise_multiplier * self.sensitivity

    def spent(self, releases: int) -> float:
        """Epsilon of so many releases, at `delta`."""
        if releases == 0:
            return 0.0
        event = dp_accounting.GaussianDpEvent(self.noise_multiplier)
        return epsilon_of(dp_accounting.SelfComposedDpEvent(event, releases), self.delta)

    def release(self, histogram: np.ndarray, randomness: Randomness) -> np.ndarray:
        """The noisy histogram. The caller has recorded it before.

        Args:
            histogram: float (groups, 2, bins), from `score_histogram`.
            randomness: The run's; the stream is named after this release's settings, so that
                seeded runs which differ in them share no noise.

        Returns:
            float64 (groups, 2, bins).
        """
        query = ReplayableGaussianSumQuery(self.sensitivity, self.noise_stddev)
        purpose = "validation histogram " + json.dumps([asdict(self), histogram.shape])
        seeds = tf.constant(randomness.stateless_seeds(purpose, 0, 1)[:, None])
        state = query.seeded_global_state(seeds, tf.ones([1]))
        sums = [tf.constant(histogram, tf.float32)]
        (noisy,), _, _ = query.get_noised_result(sums, state)
        return noisy.numpy().astype(np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the ledger."""
        return {**asdict(self), "noise_multiplier": self.noise_multiplier}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> HistogramRelease:
        """The release that `to_dict` described.

        Raises:
            KeyError: If it is none.
        """
        return cls(**{key: document[key] for key in ("epsilon", "delta", "neighbours", "bins")})

    def statement(self, releases: int) -> str:
        """The guarantee in words."""
        times = "one release" if releases == 1 else f"{releases} releases"
        return (
            f"Of the validation examples, whom training does not read, the thresholds of groups "
            f"are ({self.spent(releases):.4g}, {self.delta:.3g})-differentially private with "
            f"respect to one validation example ({self.neighbours}): {times} of their number by "
            f"group, label and score, with Gaussian noise of standard deviation "
            f"{self.noise_stddev:.4g} on each of the numbers. No example is in both splits, so "
            "no example's epsilons add up; those of a person with examples in both would. "
            "Measurements of the validation split in the logs stay not covered."
        )


def score_histogram(
    scores: np.ndarray, positive: np.ndarray, groups: np.ndarray, group_count: int, bins: int
) -> np.ndarray:
    """The exact histogram; see the module for its sensitivity. Not private.

    Args:
        scores: float (examples,); probabilities, and whatever is none is put into a bin too.
        positive: bool (examples,), whether the label is the positive one.
        groups: int (examples,), in 0 to `group_count` - 1.
        group_count: Groups there can be; public.
        bins: Bins of the score.

    Returns:
        float64 (group_count, 2, bins).
    """
    which = np.floor(np.clip(np.nan_to_num(scores, nan=0.0), 0.0, 1.0) * bins).astype(np.int64)
    cells = (groups, positive.astype(np.int64), np.minimum(which, bins - 1))
    shape = (group_count, 2, bins)
    flat = np.ravel_multi_index(cells, shape)
    return np.bincount(flat, minlength=math.prod(shape)).reshape(shape).astype(np.float64)
