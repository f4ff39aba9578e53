"""Name in a recipe -> way of sampling. The one place to add to."""

from __future__ import annotations

from configs.schema import SamplingSettings
from training.privacy.sampling.base import Sampling
from training.privacy.sampling.poisson import PoissonSampling

SAMPLINGS: dict[str, type] = {cls.method: cls for cls in (PoissonSampling,)}


def build_sampling(settings: SamplingSettings, num_examples: int, batch_size: int) -> Sampling:
    """The recipe's way of sampling for a training set of `num_examples`."""
    sampling: Sampling = SAMPLINGS[settings.method](num_examples, batch_size)
    return sampling
