"""TF-Privacy's adaptive clipping, with noise that can be replayed.

As in `training.privacy.noise`, only where the numbers come from is changed: the sum's and the
count's noise are named streams of the mechanism. The update of the bound, the shift of the count
and the event are TF-Privacy's (`QuantileAdaptiveClipSumQuery`, `QuantileEstimatorQuery`). A bound
whose noise moves with it and a threshold beside noise that stays are the two kinds.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import dp_accounting
import tensorflow as tf

from training.privacy.noise import ReplayableGaussianSumQuery
from training.privacy.tf_privacy import (
    NormalizedQuery,
    QuantileAdaptiveClipSumQuery,
    QuantileEstimatorQuery,
)


class _ReplayableCountQuery(ReplayableGaussianSumQuery):
    """Of one number, not of a list of tensors."""

    def get_noised_result(self, sample_state: tf.Tensor, global_state: Any) -> Any:
        (noised,), global_state, event = super().get_noised_result([sample_state], global_state)
        return noised, global_state, event


class _ReplayableQuantileEstimatorQuery(QuantileEstimatorQuery):
    def _construct_below_estimate_query(
        self, below_estimate_stddev: float, expected_num_records: int
    ) -> NormalizedQuery:
        # Each record counts +1/2 or -1/2.
        count = _ReplayableCountQuery(0.5, below_estimate_stddev)
        return NormalizedQuery(count, expected_num_records)


class ReplayableAdaptiveClipSumQuery(QuantileAdaptiveClipSumQuery):
    """A `QuantileAdaptiveClipSumQuery` whose global state carries the draws of the next release.

    Args:
        initial_l2_norm_clip: The bound of the first release.
        noise_multiplier: Noise on the sum, in multiples of the bound in use.
        target_unclipped_quantile: Share of records to be left unclipped.
        learning_rate: Of the geometric update of the bound.
        clipped_count_stddev: Noise on the count, in records.
        expected_num_records: By which the count is divided; public.
    """

    def __init__(
        self,
        initial_l2_norm_clip: float,
        noise_multiplier: float,
        target_unclipped_quantile: float,
        learning_rate: float,
        clipped_count_stddev: float,
        expected_num_records: int,
    ):
        super().__init__(
            initial_l2_norm_clip,
            noise_multiplier,
            target_unclipped_quantile,
            learning_rate,
            clipped_count_stddev,
            expected_num_records,
        )
        self._sum_query = ReplayableGaussianSumQuery(
            initial_l2_norm_clip, noise_multiplier * initial_l2_norm_clip
        )
        self._quantile_estimator_query = _ReplayableQuantileEstimatorQuery(
            initial_l2_norm_clip,
            target_unclipped_quantile,
            learning_rate,
            clipped_count_stddev,
            expected_num_records,
            geometric_update=True,
        )

    def seeded_global_state(
        self, seeds: tf.Tensor, coefficients: tf.Tensor, bound: tf.Tensor | float
    ) -> Any:
        """The state for one release.

        Args:
            seeds: int64 (terms, tensors, 2), from the plan's mechanism; the last tensor is the
                count.
            coefficients: float32 (terms,), of sum and count alike.
            bound: The bound in use, float32 ().
        """
        initial = self.initial_global_state()
        bound = tf.cast(bound, tf.float32)
        of_sum = self._sum_query.make_global_state(bound, bound * initial.noise_multiplier)
        return initial._replace(
            sum_state=of_sum._replace(seeds=seeds[:, :-1], coefficients=coefficients),
            quantile_estimator_state=_seeded(
                initial.quantile_estimator_state, seeds[:, -1:], coefficients, bound
            ),
        )

    def get_noised_result(self, sample_state: list[tf.Tensor], global_state: Any) -> Any:
        """Adds the noise and moves the bound.

        Args:
            sample_state: The clipped sums, one a variable, and last the count (`half_counts`
                added up).
            global_state: From `seeded_global_state`.

        Returns:
            The noised sums (without the count), the next state, the event of both releases.
        """
        *sums, count = sample_state
        return super().get_noised_result(self._SampleState(sums, count), global_state)

    def bound(self, global_state: Any) -> tf.Tensor:
        """The bound in use, float32 ()."""
        return self.derive_metrics(global_state)["clip"]


class ReplayableThresholdQuery:
    """A Gaussian sum of fixed noise, and a noisy count that moves a threshold beside it.

    Both parts are TF-Privacy's, with draws that can be replayed; only their joining is here.

    Args:
        l2_norm_clip: Bound on every record's L2 norm.
        stddev: Of the noise on the sum.
        initial_threshold: Of the first release.
        target_quantile: Share of records to be left within the threshold.
        learning_rate: Of the geometric update of the threshold.
        count_stddev: Noise on the count, in records.
        expected_num_records: By which the count is divided; public.
    """

    _GlobalState = namedtuple("_GlobalState", ["of_sum", "quantile"])

    def __init__(
        self,
        l2_norm_clip: float,
        stddev: float,
        initial_threshold: float,
        target_quantile: float,
        learning_rate: float,
        count_stddev: float,
        expected_num_records: int,
    ):
        self._sum_query = ReplayableGaussianSumQuery(l2_norm_clip, stddev)
        self._quantile_estimator_query = _ReplayableQuantileEstimatorQuery(
            initial_threshold,
            target_quantile,
            learning_rate,
            count_stddev,
            expected_num_records,
            geometric_update=True,
        )

    def seeded_global_state(
        self, seeds: tf.Tensor, coefficients: tf.Tensor, threshold: tf.Tensor | float
    ) -> Any:
        """The state for one release.

        Args:
            seeds: int64 (terms, tensors, 2), from the plan's mechanism; the last tensor is the
                count.
            coefficients: float32 (terms,), of sum and count alike.
            threshold: The threshold in use, float32 ().
        """
        quantile = self._quantile_estimator_query.initial_global_state()
        return self._GlobalState(
            self._sum_query.seeded_global_state(seeds[:, :-1], coefficients),
            _seeded(quantile, seeds[:, -1:], coefficients, tf.cast(threshold, tf.float32)),
        )

    def get_noised_result(self, sample_state: list[tf.Tensor], global_state: Any) -> Any:
        """Adds the noise and moves the threshold.

        Args:
            sample_state: The bounded sums, one a variable, and last the count (`half_counts`
                added up).
            global_state: From `seeded_global_state`.

        Returns:
            The noised sums (without the count), the next state, the event of both releases.
        """
        *sums, count = sample_state
        noised, of_sum, sum_event = self._sum_query.get_noised_result(sums, global_state.of_sum)
        _, quantile, count_event = self._quantile_estimator_query.get_noised_result(
            count, global_state.quantile
        )
        event = dp_accounting.ComposedDpEvent([sum_event, count_event])
        return noised, self._GlobalState(of_sum, quantile), event

    def bound(self, global_state: Any) -> tf.Tensor:
        """The threshold in use, float32 ()."""
        return global_state.quantile.current_estimate


def _seeded(quantile: Any, seeds: tf.Tensor, coefficients: tf.Tensor, estimate: tf.Tensor) -> Any:
    """A quantile estimator's state at an estimate, with the draws of its next count."""
    below = quantile.below_estimate_state
    of_count = below.numerator_state._replace(seeds=seeds, coefficients=coefficients)
    return quantile._replace(
        current_estimate=estimate,
        below_estimate_state=below._replace(numerator_state=of_count),
    )


def half_counts(norms: tf.Tensor, used: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """+1/2 for a record within the bound, -1/2 for one beyond, 0 for one that is left out.

    Args:
        norms: float32 (records,).
        used: bool (records,), whether the record is part of the sum.
        bound: float32 ().
    """
    return tf.where(used, tf.where(norms <= bound, 0.5, -0.5), 0.0)
