"""What correlated noise costs: each entry one theorem, quoted in its mechanism's file.

Neighbours differ in one example that is blanked: it contributes nothing, and all others stay where
they are ("zero-out", `NeighboringRelation.REPLACE_SPECIAL`), since where an example takes part must
not depend on another's being there.
"""

from __future__ import annotations

from math import sqrt

import dp_accounting

from configs.schema import require
from training.privacy.mechanisms.banded import BandedMechanism
from training.privacy.mechanisms.toeplitz import squared_sensitivity_of_epochs
from training.privacy.mechanisms.tree import TreeMechanism
from training.privacy.sampling import CyclicPoissonSampling, ShuffledSampling


def shuffled_tree(
    sampling: ShuffledSampling, mechanism: TreeMechanism, releases: int
) -> dp_accounting.DpEvent:
    """One Gaussian release of all nodes that an example is in (Kairouz et al. 2021, appendix D).

    Raises:
        SettingError: If trees and epochs do not begin together.
    """
    require(
        mechanism.steps_per_epoch == sampling.period,
        "privacy.mechanism.steps_per_epoch",
        mechanism.steps_per_epoch,
        f"{sampling.period}, the steps of an epoch: each example may be in a tree once",
    )
    nodes = mechanism.nodes_of_an_example(releases)
    return dp_accounting.GaussianDpEvent(mechanism.noise_multiplier / sqrt(nodes))


def shuffled_banded(
    sampling: ShuffledSampling, mechanism: BandedMechanism, releases: int
) -> dp_accounting.DpEvent:
    """One Gaussian release of C x, without amplification.

    Raises:
        SettingError: If more than two of an example's steps could fall into one band.
    """
    _require_bands(mechanism, sampling.period, "steps of an epoch")
    squared = squared_sensitivity_of_epochs(mechanism.coefficients, sampling.period, releases)
    return dp_accounting.GaussianDpEvent(mechanism.noise_multiplier / sqrt(squared))


def cyclic_banded(
    sampling: CyclicPoissonSampling, mechanism: BandedMechanism, releases: int
) -> dp_accounting.DpEvent:
    """A round of DP-SGD for every turn of an example's group (Choquette-Choo et al. 2023, th. 4).

    Raises:
        SettingError: If two steps of one example could fall into one band.
    """
    _require_bands(mechanism, sampling.bands, "groups of privacy.sampling.bands")
    gaussian = dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
    sampled = dp_accounting.PoissonSampledDpEvent(sampling.probability, gaussian)
    return dp_accounting.SelfComposedDpEvent(sampled, sampling.participations(releases))


def _require_bands(mechanism: BandedMechanism, most: int, of_what: str) -> None:
    require(
        mechanism.bands <= most,
        "privacy.mechanism.bands",
        mechanism.bands,
        f"at most the {most} {of_what}: nothing is proven where an example comes back sooner",
    )
