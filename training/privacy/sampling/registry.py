"""Name in a recipe -> way of sampling. The one place to add to."""

from __future__ import annotations

from typing import Any

from configs.schema import SamplingSettings
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
    )
}


def build_sampling(settings: SamplingSettings, num_examples: int, batch_size: int) -> Sampling:
    """The recipe's way of sampling for a training set of `num_examples`."""
    sampling: Sampling = SAMPLINGS[settings.method].from_settings(
        settings, num_examples, batch_size
    )
    return sampling
