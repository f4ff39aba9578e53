"""Which examples form a batch, exactly as it is accounted. One file a method.

A method is a frozen dataclass of public numbers; it makes the sampler that draws and says in words
what it does. What it costs stands in `training.privacy.events`, beside every other combination.
"""

from training.privacy.sampling.base import Sampling
from training.privacy.sampling.poisson import PoissonSampler, PoissonSampling
from training.privacy.sampling.registry import SAMPLINGS, build_sampling

__all__ = [
    "SAMPLINGS",
    "PoissonSampler",
    "PoissonSampling",
    "Sampling",
    "build_sampling",
]
