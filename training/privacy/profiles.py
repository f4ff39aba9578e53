"""Privacy profiles: for every epsilon the least delta of one release, in closed form.

`dp_accounting` 0.4 (the version TF-Privacy pins) knows Poisson sampling under add/remove and little
else. The profiles here are what further ways of sampling and further neighbouring relations cost;
`training.privacy.profile_accounting` turns any of them into a privacy loss distribution, which the
accountant composes with every other event.

Notation: H_g(P || Q) = sup over events E of P(E) - g Q(E), the hockey-stick divergence at g =
e^epsilon; the release is (epsilon, delta)-private where both H_g(P || Q) and H_g(Q || P) are at
most delta for every pair P, Q of neighbours. The sensitivity (what one example can add to the sum)
is taken as 1, sigma is the noise multiplier, N(m) a Gaussian of mean m and standard deviation
sigma, q a sampling probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import ndtr


class Profile(Protocol):
    """An upper bound on both hockey-stick divergences of one release.

    Both are convex in e^epsilon, as divergences are, so that what lies between two points of a
    grid is below the chord.
    """

    def forward(self, epsilons: np.ndarray) -> np.ndarray:
        """H of the release with the example against the one without, at `epsilons` >= 0."""
        ...

    def backward(self, epsilons: np.ndarray) -> np.ndarray:
        """H of the release without the example against the one with it, at `epsilons` >= 0."""
        ...


@dataclass(frozen=True)
class SampledGaussian:
    """(1-q) N(0) + q N(1) against N(0): one example that is there with probability q, or never.

    Source: Zhu, Dong and Wang 2022 (arXiv:2106.08567), theorem 11: the dominating pair of a
    Poisson-sampled Gaussian under add/remove. It is what `dp_accounting`'s `PoissonSampledDpEvent`
    is accounted with (tested to agree).

    Attributes:
        probability: q in (0, 1].
        noise_multiplier: sigma.
    """

    probability: float
    noise_multiplier: float

    def forward(self, epsilons: np.ndarray) -> np.ndarray:
        q, sigma = self.probability, self.noise_multiplier
        # The mixture is the likelier one above x.
        surplus = np.expm1(epsilons) + q
        x = sigma**2 * np.log(surplus / q) + 0.5
        return q * ndtr((1 - x) / sigma) - surplus * ndtr(-x / sigma)

    def backward(self, epsilons: np.ndarray) -> np.ndarray:
        q, sigma = self.probability, self.noise_multiplier
        surplus = np.expm1(-epsilons) + q
        with np.errstate(divide="ignore", invalid="ignore"):
            # N(0) is e^epsilon times likelier below x, and nowhere once 1 - q > e^-epsilon.
            x = sigma**2 * np.log(np.maximum(surplus, 0.0) / q) + 0.5
        return np.exp(epsilons) * (
            np.maximum(surplus, 0.0) * ndtr(x / sigma) - q * ndtr((x - 1) / sigma)
        )


@dataclass(frozen=True)
class SwappedGaussian:
    """(1-q) N(0) + q N(1) against (1-q) N(0) + q N(-1): one example replaced by its opposite.

    Dominates Poisson sampling under replacement. Proof: given all else, the releases are
    P = (1-q) N(0) + q N(a) and Q = (1-q) N(0) + q N(b) for vectors |a|, |b| <= 1. For g >= 1,
    H_g(P || Q) is the integral of the positive part of
        q f_a - (g-1)(1-q) f_0 - g q f_b,
    taken over E, where it is positive: E lies where a.x exceeds an increasing function of b.x with
    slope below 1. (i) Turn b, lengths fixed, by v orthogonal to b: by the envelope theorem the
    integral changes by -g q times the flow of f_b v out of E, whose outer normal is along
    -(a - s b), 0 < s < 1; so by g q times a positive number times -(v.a): it grows while b turns
    away from a, and is greatest at b = -|b| a / |a|. (ii) On that line E is a half-line beyond some
    x, q f_a gains mass there as |a| grows and g q f_b loses it as |b| grows. So |a| = |b| = 1. The
    mirror image gives the other direction, and H_g for g < 1 follows from that for 1/g. The same
    argument holds with any bound in place of 1, so H grows with 1/sigma.
    (The pair is that of Lebeda et al. 2024, arXiv:2405.20769, and of `dp_accounting` from 0.5 on
    under REPLACE_ONE, whose figures the tests hold it to.)

    Attributes:
        probability: q in (0, 1].
        noise_multiplier: sigma.
    """

    probability: float
    noise_multiplier: float

    def forward(self, epsilons: np.ndarray) -> np.ndarray:
        q, sigma = self.probability, self.noise_multiplier
        with np.errstate(divide="ignore"):
            log_b = np.log(np.expm1(epsilons)) + np.log1p(-q) + 0.5 / sigma**2
        # e^(x / sigma^2) is the positive root of q y^2 - b y - g q.
        log_root = 0.5 * np.logaddexp(2 * log_b, np.log(4.0) + epsilons + 2 * np.log(q))
        x = sigma**2 * (np.logaddexp(log_b, log_root) - np.log(2 * q))
        return (
            q * ndtr((1 - x) / sigma)
            - np.expm1(epsilons) * (1 - q) * ndtr(-x / sigma)
            - np.exp(epsilons) * q * ndtr((-1 - x) / sigma)
        )

    def backward(self, epsilons: np.ndarray) -> np.ndarray:
        return self.forward(epsilons)


@dataclass(frozen=True)
class SubsetGaussian:
    """A batch of fixed size without replacement, one example replaced: q is its share of N.

    Balle, Barthe and Gaboardi 2018 (arXiv:1807.01647), theorem 9: for g' = 1 + q(g - 1), g >= 1,
    H_g'(sampled) <= q H_g(not sampled), and the sum of a batch moves by at most 2 when one of its
    examples is replaced. q H_g(N(2) || N(0)) is H_g' of (1-q) N(0) + q N(2) against N(0). Replacing
    is symmetric, so the bound serves both directions.

    Attributes:
        probability: q in (0, 1].
        noise_multiplier: sigma.
    """

    probability: float
    noise_multiplier: float

    def forward(self, epsilons: np.ndarray) -> np.ndarray:
        return SampledGaussian(self.probability, self.noise_multiplier / 2).forward(epsilons)

    def backward(self, epsilons: np.ndarray) -> np.ndarray:
        return self.forward(epsilons)


@dataclass(frozen=True)
class Mixture:
    """A release that is `usual` except with a probability that no example decides.

    H is jointly convex: the mixture's is at most the mean of the parts'.

    Attributes:
        usual: Profile in the usual case.
        rare: Profile in the other; nowhere below `usual`.
        rarity: Probability of the other, or an upper bound on it.
    """

    usual: Profile
    rare: Profile
    rarity: float

    def forward(self, epsilons: np.ndarray) -> np.ndarray:
        usual, rare = self.usual.forward(epsilons), self.rare.forward(epsilons)
        return (1 - self.rarity) * usual + self.rarity * rare

    def backward(self, epsilons: np.ndarray) -> np.ndarray:
        usual, rare = self.usual.backward(epsilons), self.rare.backward(epsilons)
        return (1 - self.rarity) * usual + self.rarity * rare
