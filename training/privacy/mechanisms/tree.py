"""DP-FTRL by tree aggregation (Kairouz et al. 2021, arXiv:2103.00039).

The prefix sums of the gradients are released, each with the noise of the few nodes of a binary
tree that cover it, so that the noise in a sum of t gradients grows with log t instead of t. What
is added to the gradient of one step is the residual, the difference of two neighbouring prefix
noises: any optimizer takes it, and plain SGD with it is DP-FTRL without momentum. A new tree
begins with every epoch.

A node's noise is named by the step that completes it, so a step names again the few nodes that its
own replaces and nothing is kept from step to step. The prefix sums are those of TF-Privacy's
`TreeAggregator` run with the same draws (tested); the class itself serves as the oracle only,
because it knows its state by running from the start.

Not offered: Honaker's variance reduction, in which a step can need every node of the tree at once
(2T draws, where this takes 2 on average). The banded mechanism is the better use of that effort.

Guarantees (what epsilon depends on):
    With each example in at most one step of an epoch, everything released is a Gaussian mechanism
    whose squared sensitivity is the number of nodes that hold the example: at most
    ceil(log2(steps + 1)) of a tree of `steps` leaves (appendix D there; the steps may depend on
    what was released before, theorem 2.1 of Denisov et al. 2022, arXiv:2202.08312). The figure is
    that of `dp_accounting.SingleEpochTreeAggregationDpEvent`, whose Renyi curve is the Gaussian's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from training.privacy.mechanisms.base import Draws
from training.randomness import Randomness


@dataclass(frozen=True)
class TreeMechanism:
    """Tree-aggregated Gaussian noise, a tree an epoch.

    Attributes:
        noise_multiplier: Of every node.
        steps_per_epoch: Leaves of a tree.
    """

    method: ClassVar[str] = "tree"
    slots: ClassVar[int] = 0
    needs_one_root: ClassVar[bool] = True
    noise_multiplier: float
    steps_per_epoch: int

    def with_noise(self, noise_multiplier: float) -> TreeMechanism:
        return replace(self, noise_multiplier=noise_multiplier)

    def nodes_of_an_example(self, steps: int) -> int:
        """The most nodes that one example can be in, of all trees of the first `steps` steps."""
        trees, leaves = divmod(steps, self.steps_per_epoch)
        return trees * self.steps_per_epoch.bit_length() + leaves.bit_length()

    def draws(self, step: int, randomness: Randomness, tensors: int) -> Draws:
        epoch, leaf = divmod(step, self.steps_per_epoch)
        first = epoch * self.steps_per_epoch
        replaced = nodes_replaced_at(leaf)
        terms = self.steps_per_epoch.bit_length()
        seeds = np.zeros((terms, tensors, 2), np.int64)
        coefficients = np.zeros(terms, np.float32)
        for term, node in enumerate((leaf, *replaced)):
            seeds[term] = randomness.stateless_seeds("noise", first + node, tensors)
            coefficients[term] = 1.0 if node == leaf else -1.0
        return Draws(seeds, coefficients)

    def describe(self, stddev: float) -> str:
        return (
            "noise correlated over steps by tree aggregation (DP-FTRL), a tree for every epoch of "
            f"{self.steps_per_epoch} steps, with Gaussian noise of standard deviation "
            f"{stddev:.6g} in every node (noise multiplier {self.noise_multiplier:.6g})"
        )


def nodes_replaced_at(leaf: int) -> list[int]:
    """The nodes that cover the leaves before `leaf` and are replaced by the one it completes.

    Returns:
        Each node by the leaf that completed it, smallest node first; as many as `leaf + 1` has
        trailing zero bits.
    """
    replaced, level = [], 0
    while (leaf >> level) & 1:
        replaced.append(((leaf >> level) << level) - 1)
        level += 1
    return replaced
