"""The step of DP-SGD and its kin: clipped sum, noise, a public divisor."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from configs.schema import UserError
from training.privacy.adaptive_query import half_counts
from training.privacy.clip_methods import CountedQuantile
from training.privacy.clip_methods.base import LEAST_BOUND
from training.privacy.clip_watch import ClipWatch, CountKeeper, WatchedCounts
from training.privacy.clipping import ClippedSum, clipped_gradient_sum
from training.privacy.mechanisms import Draws
from training.privacy.noise_memory import NoiseMemory
from training.privacy.plan import PrivacyPlan
from training.privacy.sites import find_sites
from training.randomness import Randomness
from training.steps.base import TrainingStep
from training.steps.compilation import CompiledPart
from training.steps.drawn_noise import Noise
from training.steps.totals import report_of


class PrivateStep(TrainingStep):
    """DP-SGD: clipped sum, plus noise, divided by the *expected* batch size.

    Guarantees:
        Nothing computed from the batch reaches the weights but the noisy sum; the divisor is the
        plan's public constant.

    Args:
        plan: Sets clipping, noise and divisor; and the noisy tables that a player learns from,
            which are no part of the step (`training.fairness.PrivateTables`).
        memory_bytes: Most that per-example gradients may hold at once, as in
            `training.privacy.norms.within_memory`.
        watch: Who is clipped, bare, for the operator's eyes; what is released the plan names.
        further: As `TrainingStep`.
    """

    def __init__(
        self,
        *arguments: Any,
        plan: PrivacyPlan,
        memory_bytes: float | None = None,
        watch: ClipWatch | None = None,
        **further: Any,
    ):
        self._plan, self._query = plan, plan.query()
        self._memory_bytes = memory_bytes
        self._sites = find_sites(arguments[0])
        self._adapting = plan.clipping if isinstance(plan.clipping, CountedQuantile) else None
        self._bound = None if self._adapting is None else _bound(self._adapting, arguments[3])
        watch = plan.watch or watch
        self._keeper = (
            None if watch is None else CountKeeper(watch, plan.noise_multiplier, arguments[3])
        )
        # The counts of who is clipped come last.
        self._further_shapes = (
            *([] if self._adapting is None else [()]),
            *([] if watch is None else [watch.shape]),
        )
        super().__init__(*arguments, **further)
        if plan.mechanism.slots:
            self._memory = NoiseMemory(
                [tuple(v.shape) for v in self._variables],
                plan.mechanism.slots,
                plan.noise_stddev,
                self._strategy,
                jit_compile=self.compiled is CompiledPart.STEP,
            )

    @property
    def state(self) -> list[tf.Variable]:
        return [
            *([] if self._bound is None else [self._bound]),
            *([] if self._keeper is None else self._keeper.state),
            *super().state,
        ]

    def released(self) -> dict[str, float]:
        if self._adapting is None:
            return {}
        return {self._adapting.released_as: float(tf.convert_to_tensor(self._bound))}

    def begin_epoch(self) -> None:
        if self._keeper is not None:
            self._keeper.begin_epoch()

    def watched(self) -> WatchedCounts | None:
        return None if self._keeper is None else self._keeper.read()

    def draws(self, step: int, randomness: Randomness) -> Draws:
        # Bare counts take no noise, so that watching leaves all noise as it was.
        further = int(self._adapting is not None) + int(self._plan.watch is not None)
        return self._plan.draws(step, randomness, max(1, len(self._variables)) + further)

    def _gradient_sum(self, batch: dict[str, Any]) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        if list(map(id, self._model.trainable_variables)) != list(map(id, self._variables)):
            raise UserError(
                "model: other weights are trainable than when the step was made. Compile again "
                "after setting trainable."
            )
        bound = None if self._bound is None else tf.convert_to_tensor(self._bound)
        clipping: Any = self._plan.clipping
        if self._adapting is not None:
            clipping = self._adapting.in_use(bound)
        clipped = clipped_gradient_sum(
            self._model,
            self._loss.minimized(batch),
            batch,
            clipping,
            self._sites,
            rows_per_record=self._plan.rows_per_record,
            memory_bytes=self._memory_bytes,
        )
        sums = list(clipped.gradients)
        if bound is not None:
            sums.append(tf.reduce_sum(half_counts(clipped.norms, clipped.used, bound)))
        if self._keeper is not None:
            watch = self._keeper.watch
            groups = batch["groups"][watch.attribute][:: self._plan.rows_per_record]
            sums.append(watch.counts(groups, clipped.relative_norms, clipped.used))
        return sums, self._observe(batch, clipped)

    def _observe(self, batch: dict[str, Any], clipped: ClippedSum) -> dict[str, tf.Tensor]:
        """What to report of a physical batch: a tensor for each field of `StepTotals`."""
        losses, used = clipped.losses, tf.repeat(clipped.used, self._plan.rows_per_record)
        if self.player is not None:
            unpriced = self._loss.unpriced(batch)(batch["labels"], clipped.logits)
            losses = tf.where(batch["mask"] & used, unpriced, 0.0)
        report = report_of(
            batch["labels"], clipped.logits, losses, batch["mask"], clipped.non_finite
        )
        return self._loss.with_leakage_apart(report, clipped.logits, batch["mask"] & used)

    def _release(self, sums: list[tf.Tensor], divisor: tf.Tensor, noise: Noise) -> list[tf.Tensor]:
        seeds, coefficients, slot = noise
        if self._keeper is not None:
            *sums, counts = sums
            self._keeper.add(counts, seeds[:, -1:], coefficients)
        if self._plan.watch is not None:
            seeds = seeds[:, :-1]
        if self._bound is not None:
            state = self._query.seeded_global_state(seeds, coefficients, self._bound)
        elif self._memory is None:
            state = self._query.seeded_global_state(seeds, coefficients)
        else:
            state = self._query.given_global_state(self._memory.noises(slot))
        noised, state, _ = self._query.get_noised_result(sums, state)
        if self._bound is not None:
            self._bound.assign(tf.maximum(self._query.bound(state), LEAST_BOUND))
        return list(noised)

    def _divisor(self, examples: tf.Tensor) -> tf.Tensor:
        # Not how many there are, which tells of who was drawn.
        return tf.constant(self._plan.batch_size, tf.float32)


def _bound(method: CountedQuantile, strategy: tf.distribute.Strategy) -> tf.Variable:
    """The clipping norm (or threshold) in use, where it moves."""
    with strategy.scope():
        return tf.Variable(
            method.start,
            dtype=tf.float32,
            trainable=False,
            # All replicas compute the same from the same all-reduced count.
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
