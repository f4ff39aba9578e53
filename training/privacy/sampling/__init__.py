"""Which examples form a batch, exactly as it is accounted. One file a method.

A method is a frozen dataclass of public numbers; it makes the sampler that draws and says in words
what it does. What it costs stands in `training.privacy.events`, beside every other combination.
"""

from training.privacy.sampling.balanced_poisson import BalancedPoissonSampling
from training.privacy.sampling.balls_in_bins import BallsInBinsSampling
from training.privacy.sampling.base import Sampling
from training.privacy.sampling.cyclic import CyclicPoissonSampling
from training.privacy.sampling.fixed_size import FixedSizeSampling
from training.privacy.sampling.poisson import PoissonSampler, PoissonSampling
from training.privacy.sampling.registry import SAMPLINGS, build_sampling
from training.privacy.sampling.shuffled import ShuffledSampling
from training.privacy.sampling.truncated_poisson import TruncatedPoissonSampling

__all__ = [
    "SAMPLINGS",
    "BalancedPoissonSampling",
    "BallsInBinsSampling",
    "CyclicPoissonSampling",
    "FixedSizeSampling",
    "PoissonSampler",
    "PoissonSampling",
    "Sampling",
    "ShuffledSampling",
    "TruncatedPoissonSampling",
    "build_sampling",
]
