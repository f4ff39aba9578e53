"""What it costs to put an example into one random step of an epoch: balls-in-bins, exactly.

Dominating pair (Chua et al. 2024, arXiv:2412.16802; Feldman and Shenfeld 2025, 2502.08202). Of T
steps the first k are released, and the example is in a uniformly random one of the T. With e_t the
unit vectors and sigma the noise multiplier, the pair is
    P = (1/T) sum_{t <= k} N(e_t, sigma^2 I) + (1 - k/T) N(0, sigma^2 I)   against   Q = N(0, .).
Proof that it dominates adaptive training: fix every other example's step (they are drawn
independently of this one's). Step t then releases f_t + [t = t*] g_t + noise with |g_t| <= 1, where
f_t and g_t depend on earlier releases. From u with u_t ~ N([t = t*], sigma^2) the release is
simulated, knowing nothing of t*, by f_t + g_t u_t + independent noise of covariance
sigma^2 (I - g_t g_t'); so by post-processing the releases are no easier to tell apart than u.

Computation. The likelihood ratio is W = (1 - k/T) + (1/T) sum_{t <= k} X_t, where X_t =
exp((u_t - 1/2) / sigma^2) are independent, with mean 1 under Q. Both divergences are means under Q
of convex functions of W: of (W - g)+ and of (1 - g W)+. So they only grow when each X_t is spread
over the two neighbouring points of a grid in such a way that its mean stays (an X_t at a third of
a cell goes down with probability 2/3 and up with 1/3). The sum of the spread X_t is a k-fold
convolution, by FFT. What that leaves out goes to delta, upwards: the chance that some X_t or the
sum lies beyond the grid (the latter by Chernoff), and twice the negative mass that the FFT's
rounding left. For (1 - g W)+ an X_t above T counts as T: either way W >= 1 and the term is zero.
The result is an upper bound for every grid, close for a fine one (tested by Monte Carlo). Below a
noise multiplier of about 0.6 the grid cannot be fine and the bound is loose; never looser than
one Gaussian release with the example's step given away.
The idea of working with the distribution of W itself: Feldman and Shenfeld 2026, arXiv:2602.17284.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft
from scipy.special import ndtr, ndtri

from training.privacy.profiles import SampledGaussian

_TAIL = 1e-13  # what may be cut off the distribution of one X and of their sum
_FINENESS = 0.02  # width of a cell, as a share of the middle of X's distribution
_LARGEST_GRID = 1 << 21


@dataclass(frozen=True)
class AllocatedGaussian:
    """A `training.privacy.profiles.Profile`: the first `released` of `bins` steps of an epoch.

    Attributes:
        bins: T, steps of an epoch.
        released: k, of which were released; at least 1.
        noise_multiplier: sigma.
    """

    bins: int
    released: int
    noise_multiplier: float

    def forward(self, epsilons: np.ndarray) -> np.ndarray:
        tail = _above(self)
        first = np.searchsorted(tail.values, np.exp(epsilons))
        found = tail.mass_p[first] - np.exp(epsilons) * tail.mass_q[first]
        return np.minimum(tail.cut + np.maximum(found, 0), self._step_known(epsilons))

    def backward(self, epsilons: np.ndarray) -> np.ndarray:
        tail = _below(self)
        last = np.searchsorted(tail.values, np.exp(-epsilons))
        found = tail.mass_q[last] - np.exp(epsilons) * tail.mass_p[last]
        return np.minimum(tail.cut + np.maximum(found, 0), self._step_known(epsilons))

    def _step_known(self, epsilons: np.ndarray) -> np.ndarray:
        """What it costs to give the example's step away: by convexity never less."""
        gaussian = SampledGaussian(1.0, self.noise_multiplier).forward(epsilons)
        return self.released / self.bins * gaussian


@dataclass(frozen=True)
class _Tail:
    """A discrete distribution of W on one side of 1, spread out in convex order.

    Attributes:
        values: W, ascending, (n,).
        mass_p: Mass under P from value i on outwards, (n + 1,).
        mass_q: The same under Q.
        cut: Mass that was left out.
    """

    values: np.ndarray
    mass_p: np.ndarray
    mass_q: np.ndarray
    cut: float


@lru_cache(maxsize=8)
def _above(allocation: AllocatedGaussian) -> _Tail:
    """Where P is the likelier: W >= 1."""
    bins, count, sigma = allocation.bins, allocation.released, allocation.noise_multiplier
    share = count / bins  # probability that the example's step was released
    # X <= highest but for _TAIL under N(1), where X is largest.
    highest = float(np.exp((0.5 - sigma * ndtri(_TAIL)) / sigma**2))
    width, size = _grid(allocation, highest)
    single = _spread(sigma, width, int(np.ceil(highest / width)))
    tilted = single * np.arange(len(single)) * width  # the step that holds the example
    without = fft.rfft(single, size)
    others = without ** (count - 1)
    total = share * others * fft.rfft(tilted, size) + (1 - share) * others * without
    mass = fft.irfft(total, size)
    kept = single.sum() ** (count - 1) * (share * tilted.sum() + (1 - share) * single.sum())
    cut = max(0.0, 1 - kept) + _beyond(single, tilted, count, size, width)
    cut += 2 * -np.minimum(mass, 0).sum()
    values = 1 - share + np.arange(size) * width / bins
    large = values >= 1
    values, mass = values[large], np.maximum(mass[large], 0)
    return _Tail(values, _outwards(mass), _outwards(mass / values), float(cut))


@lru_cache(maxsize=8)
def _below(allocation: AllocatedGaussian) -> _Tail:
    """Where Q is the likelier: W < 1."""
    bins, count, sigma = allocation.bins, allocation.released, allocation.noise_multiplier
    highest = float(min(bins, np.exp((-0.5 - sigma * ndtri(_TAIL)) / sigma**2)))
    width, size = _grid(allocation, highest)
    single = _spread(sigma, width, int(np.ceil(highest / width)))
    single[-1] += max(0.0, 1 - single.sum())
    # A sum beyond the grid comes back in at 0, where it counts for more than it should.
    mass = fft.irfft(fft.rfft(single, size) ** count, size)
    cut = 2 * -np.minimum(mass, 0).sum()
    values = 1 - count / bins + np.arange(size) * width / bins
    small = values < 1
    values, mass = values[small], np.maximum(mass[small], 0)
    inwards = [np.append(0.0, np.cumsum(part)) for part in (mass * values, mass)]
    return _Tail(values, inwards[0], inwards[1], float(cut))


def _outwards(mass: np.ndarray) -> np.ndarray:
    return np.append(np.cumsum(mass[::-1])[::-1], 0.0)


def _grid(allocation: AllocatedGaussian, highest: float) -> tuple[float, int]:
    """Width of a cell and number of points, for X up to `highest`."""
    count, sigma = allocation.released, allocation.noise_multiplier
    deviation = float(np.sqrt(np.expm1(1 / sigma**2)))
    # A large sum is one large term on top of an ordinary sum; Chernoff bounds what is left.
    reach = min(count * highest, count + 10 * deviation * np.sqrt(count) + 3 * highest)
    # X is lognormal: its middle lies between the median and about as far above it.
    middle = min(deviation, float(np.exp(-0.5 / sigma**2)))
    width = max(_FINENESS * middle, 1.01 * reach / _LARGEST_GRID)
    return width, int(fft.next_fast_len(int(reach / width) + 4, real=True))


def _spread(sigma: float, width: float, cells: int) -> np.ndarray:
    """X on the grid 0, width, ... cells * width under Q, each cell's mean kept, float64."""
    edges = np.arange(cells + 1) * width
    with np.errstate(divide="ignore"):
        u = sigma**2 * np.log(edges) + 0.5
    mass = _between(u / sigma)  # of each cell
    moment = _between((u - 1) / sigma)  # its mean times its mass: X is the ratio N(1) / N(0)
    upper = np.clip(moment / width - np.arange(cells) * mass, 0.0, mass)
    found = np.zeros(cells + 1)
    found[:-1] += mass - upper
    found[1:] += upper
    return found


def _between(edges: np.ndarray) -> np.ndarray:
    """Gaussian mass between edges, without cancellation in either tail."""
    low, high = edges[:-1], edges[1:]
    return np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))


def _beyond(single: np.ndarray, tilted: np.ndarray, count: int, size: int, width: float) -> float:
    """A bound on the mass of the sum at or beyond the grid's end, by Chernoff."""
    points, end = np.arange(len(single)) * width, size * width
    if points[-1] * count < end:
        return 0.0
    bounds = [0.0]
    for rate in np.geomspace(1e-4, 60.0, 40) / points[-1]:
        growth = np.exp(rate * points)
        one, holding = np.log(single @ growth), np.log(tilted @ growth)
        bounds.append((count - 1) * one + max(one, holding) - rate * end)
    return float(np.exp(min(bounds)))
