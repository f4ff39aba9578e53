"""Name in a recipe -> way of sampling. The one place to add to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from configs.schema import SamplingSettings, require
from training.privacy.sampling.balanced_poisson import BalancedPoissonSampling
from training.privacy.sampling.balls_in_bins import BallsInBinsSampling
from training.privacy.sampling.base import Sampling
from training.privacy.sampling.cyclic import CyclicPoissonSampling
from training.privacy.sampling.fixed_size import FixedSizeSampling
from training.privacy.sampling.poisson import PoissonSampling
from training.privacy.sampling.shuffled import ShuffledSampling
from training.privacy.sampling.truncated_poisson import TruncatedPoissonSampling

SAMPLINGS: dict[str, Any] = {
    cls.method: cls
    for cls in (
        PoissonSampling,
        TruncatedPoissonSampling,
        FixedSizeSampling,
        BallsInBinsSampling,
        ShuffledSampling,
        CyclicPoissonSampling,
        BalancedPoissonSampling,
    )
}


def build_sampling(
    settings: SamplingSettings,
    num_examples: int,
    batch_size: int,
    shares: Sequence[float] | None = None,
) -> Sampling:
    """The recipe's way of sampling for a training set of `num_examples`.

    Args:
        settings: The recipe's.
        num_examples: Training examples; public.
        batch_size: Expected examples a step; public.
        shares: Of groups that are to be drawn alike, each one's public share of the examples.

    Raises:
        SettingError: If a value is impossible, or groups are to be balanced otherwise than by
            Poisson.
    """
    if shares is not None:
        require(
            settings.method == "poisson",
            "privacy.sampling.method",
            settings.method,
            "poisson with fairness.balanced_sampling: of others nothing is proven at rates that "
            "differ by group",
        )
        return BalancedPoissonSampling(num_examples, batch_size, tuple(shares))
    sampling: Sampling = SAMPLINGS[settings.method].from_settings(
        settings, num_examples, batch_size
    )
    return sampling
