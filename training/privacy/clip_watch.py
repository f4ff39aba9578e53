r"""Who is being clipped: how far each group's gradients lie from the bound, bare or released.

Clipping hurts small groups most (Bagdasaryan et al. 2019, arXiv:1905.12101), because the gradients
that it cuts are those of examples the model serves worst. What is watched is a histogram h of the
examples of each step by group and by their relative norm r = |g| / (the norm beyond which it would
be cut): cut is who has r > 1. Either

- *marked*: the bare counts, for the operator's eyes; epsilon does not cover them, and everything
  that shows them says so. They change neither batches nor noise;
- *released*: the counts with Gaussian noise, as part of every step's release, out of the same
  budget: `share` of it.

Guarantees (what epsilon depends on):
    *Sensitivity.* Which cells there are is public. A record x adds to h the indicator e_x of one
    single cell (or nothing), whatever its gradient and however many cells there are: |e_x| <= 1.
    *One release.* Let x add v_x, |v_x| <= C, to the bounded sum, whose noise is z_s C, and s be the
    noise on each count, with 1 / z_s^2 = (1 - share) / z^2 and 1 / s^2 = share / z^2. A step's
    release is, up to known scales, the Gaussian mechanism of unit noise on the sum of
    u_x = (v_x / (z_s C), e_x / s), and

        |u_x|^2 <= 1 / z_s^2 + 1 / s^2 = 1 / z^2,

    so that it costs what the sum alone costs at the plan's noise multiplier z. Every proof of
    `training.privacy.events` uses of a record no more than that bound. (Where the clipping method
    itself counts, it divides z_s further: `clip_methods.counted`.)
    *Sums over steps* are computed from what was released, and cost nothing more.

==============================  ==================================================
edge case                       counted as
==============================  ==================================================
padding, non-finite gradient    nobody
zero gradient                   the lowest bin
record of several rows          one example of its first row's group
several groups of variables     the largest r of them: cut is who is cut in any
`automatic` clipping            r = |g| / clipping_norm, though it cuts nobody
==============================  ==================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from configs.schema import ClippingWatchSettings, require
from training.privacy.noise import ReplayableGaussianSumQuery

# Octaves of the relative norm to either side of 1, and bins an octave: coarse where noise is paid.
_BARE = (16, 8)
_RELEASED = (8, 1)


@dataclass(frozen=True)
class ClipWatch:
    """What is counted, and out of which share of the budget: public numbers only.

    Attributes:
        attribute: The group attribute.
        groups: How many groups it has.
        share: Share of the budget, as 1/noise^2, that the counts take; None leaves them bare.
    """

    attribute: str
    groups: int
    share: Optional[float] = None

    def __post_init__(self) -> None:
        require(
            self.share is None or 0 < self.share < 1,
            "privacy.clipping.watch.share",
            self.share,
            "a share in (0, 1)",
        )

    @classmethod
    def of(cls, settings: ClippingWatchSettings, groups: dict[str, Any]) -> ClipWatch | None:
        """What `privacy.clipping.watch` asks for; None if nothing.

        Args:
            settings: The section.
            groups: The data's group attributes, each with its value names.

        Raises:
            SettingError: If the data have no such attribute.
        """
        if settings.mode is None or settings.attribute is None:
            return None
        require(
            settings.attribute in groups,
            "privacy.clipping.watch.attribute",
            settings.attribute,
            f"one of the data's group attributes {list(groups)}",
        )
        share = settings.share if settings.mode == "released" else None
        return cls(settings.attribute, len(groups[settings.attribute]), share)

    @property
    def edges(self) -> np.ndarray:
        """Relative norms between which the bins lie, float64 (bins + 1,); the middle one is 1.

        The outermost bins also hold what lies beyond them.
        """
        octaves, width = self._grid
        return 2.0 ** (np.arange(-octaves * width, octaves * width + 1) / width)

    @property
    def shape(self) -> tuple[int, int]:
        """Groups and bins."""
        octaves, width = self._grid
        return self.groups, 2 * octaves * width

    @property
    def _grid(self) -> tuple[int, int]:
        return _BARE if self.share is None else _RELEASED

    def sum_noise_multiplier(self, noise_multiplier: float) -> float:
        """What is left for the bounded sum: z_s, in multiples of its sensitivity."""
        return noise_multiplier / sqrt(1 - (self.share or 0.0))

    def count_stddev(self, noise_multiplier: float) -> float:
        """Noise on each count of a step, in examples; 0 where they are bare."""
        return 0.0 if self.share is None else noise_multiplier / sqrt(self.share)

    def counts(self, groups: tf.Tensor, relative: tf.Tensor, used: tf.Tensor) -> tf.Tensor:
        """The histogram of a batch, float32 (groups, bins).

        Args:
            groups: int (records,).
            relative: float32 (records,), the relative norms.
            used: bool (records,), whether the record is part of the sum.
        """
        octaves, width = self._grid
        limit = float(octaves * width)
        # A norm of exactly the bound is not cut: bins are closed above.
        place = tf.math.ceil(tf.math.log(relative) * (width / np.log(2.0)))
        place = tf.clip_by_value(tf.where(used, place, 0.0), 1.0 - limit, limit)
        bins = tf.cast(place, tf.int32) + int(limit) - 1
        known = used & (relative >= 0) & (groups >= 0) & (groups < self.groups)
        cells = tf.where(known, tf.cast(groups, tf.int32), 0) * self.shape[1] + bins
        flat = tf.math.unsorted_segment_sum(
            tf.cast(known, tf.float32), cells, self.shape[0] * self.shape[1]
        )
        return tf.reshape(flat, self.shape)

    def describe(self, noise_multiplier: float, unit: str = "example") -> str:
        """One clause for the statement of the guarantee, in which a record is called `unit`."""
        cells = self.shape[0] * self.shape[1]
        return (
            f"with every sum, at {self.share:.3g} of the budget, the number of its {unit}s by "
            f"{self.attribute} and length of gradient ({cells} counts, Gaussian noise of standard "
            f"deviation {self.count_stddev(noise_multiplier):.4g} on each)"
        )


@dataclass(frozen=True)
class WatchedCounts:
    """What was counted, added up.

    Attributes:
        watch: What was counted.
        epoch: float (groups, bins), since the epoch began.
        run: float (groups, bins), since the run began; bare counts since the process began.
        epoch_stddev: Standard deviation of the noise on each of `epoch`; 0 where they are bare.
        run_stddev: Likewise of `run`.
    """

    watch: ClipWatch
    epoch: np.ndarray
    run: np.ndarray
    epoch_stddev: float
    run_stddev: float

    @property
    def is_covered(self) -> bool:
        """Whether epsilon covers the counts."""
        return self.watch.share is not None


class CountKeeper:
    """Adds up a run's counts, one step after the other, alike on every replica.

    Args:
        watch: What is counted.
        noise_multiplier: The plan's.
        strategy: Where the step runs.
    """

    def __init__(self, watch: ClipWatch, noise_multiplier: float, strategy: tf.distribute.Strategy):
        self.watch = watch
        self._query = None
        if watch.share is not None:
            self._query = ReplayableGaussianSumQuery(1.0, watch.count_stddev(noise_multiplier))
        with strategy.scope():
            # Of the epoch and of the run; the variances are those of the noise in each.
            self._totals = [_same_on_all(watch.shape) for _ in range(2)]
            self._variances = [_same_on_all(()) for _ in range(2)]

    @property
    def state(self) -> list[tf.Variable]:
        """What a checkpoint keeps; bare counts of training examples go into none."""
        return [] if self._query is None else [*self._totals, *self._variances]

    def begin_epoch(self) -> None:
        """Starts the epoch's counts afresh."""
        for variable, _ in (self._totals, self._variances):
            variable.assign(tf.zeros(variable.shape))

    def add(self, counts: tf.Tensor, seeds: tf.Tensor, coefficients: tf.Tensor) -> None:
        """Adds a step's counts, noised first unless they are bare.

        Args:
            counts: float32 (groups, bins), over all replicas.
            seeds: int64 (terms, 1, 2), of this release; ignored where they are bare.
            coefficients: float32 (terms,), likewise.
        """
        if self._query is not None:
            state = self._query.seeded_global_state(seeds, coefficients)
            (counts,), _, _ = self._query.get_noised_result([counts], state)
            variance = tf.reduce_sum(tf.square(state.stddev * coefficients))
            for variable in self._variances:
                variable.assign_add(variance)
        for variable in self._totals:
            variable.assign_add(counts)

    def read(self) -> WatchedCounts:
        """What was counted so far."""
        epoch, run = (_value(variable) for variable in self._totals)
        epoch_noise, run_noise = (float(np.sqrt(_value(v))) for v in self._variances)
        return WatchedCounts(self.watch, epoch, run, epoch_noise, run_noise)


def _value(variable: tf.Variable) -> np.ndarray:
    return tf.convert_to_tensor(variable).numpy().astype(np.float64)


def _same_on_all(shape: tuple[int, ...]) -> tf.Variable:
    return tf.Variable(
        tf.zeros(shape),
        trainable=False,
        # All replicas add the same, from the same all-reduced counts.
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
