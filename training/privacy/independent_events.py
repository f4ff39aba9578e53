"""What independent Gaussian noise costs under each way of sampling and each kind of neighbours.

Every function takes the two parts and a number of releases >= 1 and gives the event of exactly
these releases. sigma is the noise multiplier, q the sampling probability, "moves" means: changes
the clipped sum, in units of the clipping norm. Neighbours (N and the batch size are public):

==============  ===================================================================================
`add_remove`    one has an example that the other lacks
`zero_out`      an example is there in both, but in one it is blank: it takes its place in a batch
                and contributes nothing to the sum
`replace_one`   an example is another one; it contains `zero_out`, since a blank is an example, and
                moves a sum by up to 2
==============  ===================================================================================
"""

from __future__ import annotations

from collections.abc import Callable

import dp_accounting
from dp_accounting import DpEvent

from training.privacy.allocation import AllocatedGaussian
from training.privacy.mechanisms import GaussianMechanism
from training.privacy.profile_accounting import ProfiledDpEvent
from training.privacy.profiles import (
    Mixture,
    Profile,
    SampledGaussian,
    SubsetGaussian,
    SwappedGaussian,
)
from training.privacy.sampling import (
    BalancedPoissonSampling,
    BallsInBinsSampling,
    CyclicPoissonSampling,
    FixedSizeSampling,
    PoissonSampling,
    ShuffledSampling,
    TruncatedPoissonSampling,
)


def poisson_gaussian_event(
    sampling_probability: float, noise_multiplier: float, releases: int
) -> DpEvent:
    """`releases` Gaussian sums, each over a fresh Poisson sample."""
    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    sampled = dp_accounting.PoissonSampledDpEvent(sampling_probability, gaussian)
    return dp_accounting.SelfComposedDpEvent(sampled, releases)


def poisson(
    sampling: PoissonSampling | BalancedPoissonSampling,
    mechanism: GaussianMechanism,
    releases: int,
) -> DpEvent:
    """Add/remove and zero-out: with probability q the example moves the sum by up to 1.

    Source: Abadi et al. 2016, Mironov et al. 2019, Zhu et al. 2022. For zero-out the pair is the
    same: whether a blank was drawn changes nothing.
    """
    return _composed(
        mechanism,
        releases,
        lambda sigma: dp_accounting.PoissonSampledDpEvent(
            sampling.probability, dp_accounting.GaussianDpEvent(sigma)
        ),
    )


def poisson_replaced(
    sampling: PoissonSampling | BalancedPoissonSampling,
    mechanism: GaussianMechanism,
    releases: int,
) -> DpEvent:
    """Replace-one: `SwappedGaussian`, where it is proven."""
    return _profiled(
        mechanism, releases, lambda sigma: SwappedGaussian(sampling.probability, sigma)
    )


def balanced(
    sampling: BalancedPoissonSampling, mechanism: GaussianMechanism, releases: int
) -> DpEvent:
    """Add/remove and zero-out: `poisson` at the largest rate q, whatever cell the example is of.

    Proof. Let x be the example that one side has, c its cell, q_c <= q its rate. All rates are
    public constants, so that the others' draws are the same with and without x, and independent of
    whether x is drawn: given them, a step's release is P = N(0, sigma^2) without x and
    Q_r = (1 - r) P + r N(v, sigma^2) with it, |v| <= 1, r = q_c. Since q_c = t q with t <= 1,
    Q_{q_c} = (1 - t) P + t Q_q, the draw at rate q of an example that is blank with probability
    1 - t. The hockey-stick divergences H_g are jointly convex, so

        H_g(Q_{q_c} || P) <= (1 - t) H_g(P || P) + t H_g(Q_q || P) <= H_g(Q_q || P),

    because H_g(P || P) = max(1 - g, 0) is the least that H_g can be; and likewise with the sides
    exchanged. So at every step the Poisson pair at rate q dominates, for every g, and dominating
    pairs compose (Zhu et al. 2022, theorem 10). It is attained by an example of the cell with the
    largest rate: no less holds for everybody.
    """
    return poisson(sampling, mechanism, releases)


def balanced_replaced(
    sampling: BalancedPoissonSampling, mechanism: GaussianMechanism, releases: int
) -> DpEvent:
    """Replace-one: `poisson_replaced` at the largest rate, though a cell may change with it.

    Proof. As in `balanced` either example is one drawn at rate q that is blank with some
    probability. Given which of the two are blank (chosen independently of all else), the pair is
    that of replacing one example, perhaps a blank, by another at rate q, which `SwappedGaussian`
    dominates; H_g is jointly convex.
    """
    return poisson_replaced(sampling, mechanism, releases)


def truncated(
    sampling: TruncatedPoissonSampling, mechanism: GaussianMechanism, releases: int
) -> DpEvent:
    """Add/remove: Poisson's cost, with sensitivity 2 as often as a batch is full.

    Proof. Let B be `max_batch`, m the number drawn among all examples but x: the same with and
    without x, and independent of whether x is drawn. If m < B nothing is cut on either side: the
    Poisson pair. If m >= B, let Y be B of the m drawn examples, a uniform subset. Without x the
    batch is Y. With x, it is Y with probability 1 - p, and with probability p = q B / (m + 1) <= q
    it is Y less a uniform member y, plus x (the same distribution as cutting m + 1 at random). So
    given Y and y, the sum moves with probability p by |x - y| <= 2. Joint convexity of the
    divergences over m, Y and y gives `Mixture(SampledGaussian(q, sigma), SampledGaussian(q,
    sigma/2), tau)` with tau = P(m >= B); it grows with p and with tau, so tau may be taken for N
    other examples. The same mixture as Ganesh 2025 (arXiv:2508.15089), which `dp_accounting` 0.6
    implements with replacement bounds in the rare part; the tests compare.
    """
    q = sampling.probability
    return _profiled(
        mechanism,
        releases,
        lambda sigma: Mixture(
            SampledGaussian(q, sigma), SampledGaussian(q, sigma / 2), sampling.crowding
        ),
    )


def truncated_zeroed(
    sampling: TruncatedPoissonSampling, mechanism: GaussianMechanism, releases: int
) -> DpEvent:
    """Zero-out: as `truncated`, but a blank displaces a y too.

    Where m >= B, the sum moves by x - y on one side and by -y on the other, both at most 2:
    `SwappedGaussian` at sigma/2 bounds that.
    """
    q = sampling.probability
    return _profiled(
        mechanism,
        releases,
        lambda sigma: Mixture(
            SampledGaussian(q, sigma), SwappedGaussian(q, sigma / 2), sampling.crowding
        ),
    )


def truncated_replaced(
    sampling: TruncatedPoissonSampling, mechanism: GaussianMechanism, releases: int
) -> DpEvent:
    """Replace-one: as `truncated_zeroed`, and `poisson_replaced` where nothing is cut."""
    q = sampling.probability
    return _profiled(
        mechanism,
        releases,
        lambda sigma: Mixture(
            SwappedGaussian(q, sigma), SwappedGaussian(q, sigma / 2), sampling.crowding
        ),
    )


def fixed_size(sampling: FixedSizeSampling, mechanism: GaussianMechanism, releases: int) -> DpEvent:
    """Replace-one: `SubsetGaussian`; Renyi: Wang et al. 2019 (arXiv:1808.00087).

    Both take the noise relative to what a replacement moves, which is 2.
    """

    def one(sigma: float) -> DpEvent:
        gaussian = dp_accounting.GaussianDpEvent(sigma / 2)
        renyi = dp_accounting.SampledWithoutReplacementDpEvent(
            sampling.num_examples, sampling.batch_size, gaussian
        )
        return ProfiledDpEvent(SubsetGaussian(sampling.probability, sigma), renyi)

    return _composed(mechanism, releases, one)


def balls_in_bins(
    sampling: BallsInBinsSampling, mechanism: GaussianMechanism, releases: int
) -> DpEvent:
    """Add/remove and zero-out: an `AllocatedGaussian` an epoch, the last perhaps not complete.

    Epochs are drawn independently, so they compose. Under zero-out the blank lies in a bin and
    changes no sum: the same pair.
    """
    epochs, rest = divmod(releases, sampling.period)
    sigma = mechanism.noise_multiplier

    def epoch(steps: int) -> DpEvent:
        return ProfiledDpEvent(AllocatedGaussian(sampling.period, steps, sigma))

    parts = [dp_accounting.SelfComposedDpEvent(epoch(sampling.period), epochs)] if epochs else []
    if rest:
        parts.append(dp_accounting.SelfComposedDpEvent(epoch(rest), 1))
    return _joined(parts)


def shuffled(sampling: ShuffledSampling, mechanism: GaussianMechanism, releases: int) -> DpEvent:
    """Zero-out: one Gaussian release for every epoch begun, the example's step being known."""
    return _epochs(sampling, mechanism.noise_multiplier, releases)


def shuffled_replaced(
    sampling: ShuffledSampling, mechanism: GaussianMechanism, releases: int
) -> DpEvent:
    """Replace-one: the same with sensitivity 2."""
    return _epochs(sampling, mechanism.noise_multiplier / 2, releases)


def cyclic(sampling: CyclicPoissonSampling, mechanism: GaussianMechanism, releases: int) -> DpEvent:
    """Zero-out: Poisson, at the steps of the example's own group only.

    Not add/remove: groups go by position, so one more example would move others between groups,
    and a step's sum by far more than one example (as in `shuffled`).
    """
    return poisson_gaussian_event(
        sampling.probability, mechanism.noise_multiplier, sampling.participations(releases)
    )


def cyclic_replaced(
    sampling: CyclicPoissonSampling, mechanism: GaussianMechanism, releases: int
) -> DpEvent:
    """Replace-one: `SwappedGaussian`, at the steps of the example's own group only."""
    one = ProfiledDpEvent(SwappedGaussian(sampling.probability, mechanism.noise_multiplier))
    return dp_accounting.SelfComposedDpEvent(one, sampling.participations(releases))


def _epochs(sampling: ShuffledSampling, sigma: float, releases: int) -> DpEvent:
    begun = -(-releases // sampling.period)
    return dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(sigma), begun)


def _profiled(
    mechanism: GaussianMechanism, releases: int, profile: Callable[[float], Profile]
) -> DpEvent:
    return _composed(mechanism, releases, lambda sigma: ProfiledDpEvent(profile(sigma)))


def _composed(
    mechanism: GaussianMechanism, releases: int, one: Callable[[float], DpEvent]
) -> DpEvent:
    """Each step with its own noise multiplier; equal ones are counted together."""
    return _joined(
        [
            dp_accounting.SelfComposedDpEvent(one(noise_multiplier), steps)
            for noise_multiplier, steps in mechanism.multipliers(releases)
        ]
    )


def _joined(events: list[DpEvent]) -> DpEvent:
    # A tuple: events are keys of a cache.
    return events[0] if len(events) == 1 else dp_accounting.ComposedDpEvent(tuple(events))
