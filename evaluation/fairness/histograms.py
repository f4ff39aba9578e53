"""Measures of scores as arithmetic on histograms by group and truth.

A score is the probability of one label. Its histogram has fine bins, which the bins of a
calibration diagram and the thresholds of a sweep are edges of, so all measures come from one table
per attribute: (..., groups, 2, bins), truth 0 (not of the label) then 1. As in `rates`, leading
axes may carry resamples, and what is undefined is NaN.

Sources: calibration within groups, Kleinberg, Mullainathan, Raghavan 2017, "Inherent Trade-Offs in
the Fair Determination of Risk Scores"; subgroup AUCs, Borkan, Dixon, Sorensen, Thain, Vasserman
2019, "Nuanced Metrics for Measuring Unintended Bias with Real Data for Text Classification";
Kullback & Leibler 1951.
"""

from __future__ import annotations

import numpy as np

from evaluation.fairness.rates import divide

COARSE_BINS = 20
COARSE_EDGES = np.linspace(0, 1, COARSE_BINS + 1)
THRESHOLDS = COARSE_EDGES[1:-1]
_QUANTILES = 100
_PSEUDO_COUNT = 0.5  # Krichevsky & Trofimov 1981: keeps the logarithm of an empty bin finite
_LOGITS = 12.0  # beyond, a probability is within 1e-5 of 0 or 1


def edges_of(scores: np.ndarray) -> np.ndarray:
    """Bin edges that follow the scores at hand: the coarse ones and 100 quantiles."""
    quantiles = np.quantile(scores, np.linspace(0, 1, _QUANTILES + 1)[1:-1])
    return np.unique(np.concatenate([COARSE_EDGES, quantiles.clip(0, 1)]))


def edges_for_streams() -> np.ndarray:
    """Bin edges fixed in advance, about 1,200: fine in probability, and in logits near 0 and 1."""
    logits = np.linspace(-_LOGITS, _LOGITS, 1001)
    return np.unique(
        np.concatenate([np.linspace(0, 1, 201), COARSE_EDGES, 1 / (1 + np.exp(-logits))])
    )


def bins_of(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns each score's bin, int64; a score on an edge lies above it, as `score >= t` does."""
    return np.searchsorted(edges[1:-1], scores, side="right")


def thinned(edges: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns fewer edges: the coarse ones, and where each further hundredth of the scores ends.

    Args:
        edges: (bins + 1,).
        counts: (bins,), scores in each.
    """
    ends = np.searchsorted(np.cumsum(counts) / counts.sum(), np.linspace(0, 1, _QUANTILES + 1))
    return np.union1d(COARSE_EDGES, edges[np.clip(ends + 1, 0, len(counts))])


def rebin(histogram: np.ndarray, edges: np.ndarray, fewer: np.ndarray) -> np.ndarray:
    """Sums bins up into those between fewer edges, (..., bins) to (..., fewer bins)."""
    return np.add.reduceat(histogram, np.searchsorted(edges, fewer[:-1]), axis=-1)


def coarse_of(edges: np.ndarray) -> np.ndarray:
    """Returns the coarse bin that each fine bin lies in, int64 (bins,)."""
    return bins_of((edges[:-1] + edges[1:]) / 2, COARSE_EDGES)


def to_coarse(histogram: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Sums fine bins up, (..., bins) to (..., coarse bins)."""
    return rebin(histogram, edges, COARSE_EDGES)


def areas(histogram: np.ndarray) -> dict[str, np.ndarray]:
    """ROC-AUC within each group, and against its background, (..., groups).

    Returns:
        `roc_auc`: how well the group's positives are told from its negatives. `bpsn_auc`:
        background positives from subgroup negatives; low where the group's negatives score too
        high. `bnsp_auc`: background negatives from subgroup positives; low where the group's
        positives score too low. The background is everyone else.
    """
    background = histogram.sum(axis=-3, keepdims=True) - histogram
    return {
        "roc_auc": _area(histogram[..., 1, :], histogram[..., 0, :]),
        "bpsn_auc": _area(background[..., 1, :], histogram[..., 0, :]),
        "bnsp_auc": _area(histogram[..., 1, :], background[..., 0, :]),
    }


def _area(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Mann & Whitney: the chance that a positive is in a higher bin; the same bin counts half."""
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    return divide((positives * below).sum(axis=-1), positives.sum(axis=-1) * negatives.sum(axis=-1))


def calibration_error(histogram: np.ndarray, scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    r"""How far scores are from the shares they promise, in each group, (..., groups).

    .. math:: \sum_m |\sum_{i \in B_m} (y_i - s_i)| / n

    Args:
        histogram: (..., groups, 2, bins).
        scores: Sum of scores, (..., groups, coarse bins).
        edges: (bins + 1,).
    """
    positives = to_coarse(histogram[..., 1, :], edges)
    return divide(np.abs(positives - scores).sum(axis=-1), histogram.sum(axis=(-2, -1)))


def divergences(histogram: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """KL(row's scores || column's) in nats over the coarse bins, (..., groups, groups).

    Half a count is added to every bin; NaN for groups without examples.
    """
    counts = to_coarse(histogram.sum(axis=-2), edges)
    total = counts.sum(axis=-1, keepdims=True)
    shares = (counts + _PSEUDO_COUNT) / (total + _PSEUDO_COUNT * counts.shape[-1])
    shares = np.where(total > 0, shares, np.nan)
    logs = np.log(shares)
    entropy = (shares * logs).sum(axis=-1)
    return np.maximum(entropy[..., :, None] - np.einsum("...gb,...hb->...gh", shares, logs), 0.0)


def swept(histogram: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each threshold selects: `score >= threshold`, for `THRESHOLDS`.

    Returns:
        Selected, hits and positives, each (..., groups, thresholds).
    """
    coarse = to_coarse(histogram, edges)
    above = np.flip(np.cumsum(np.flip(coarse, axis=-1), axis=-1), axis=-1)[..., 1:]
    hits = above[..., 1, :]
    positives = np.broadcast_to(coarse[..., 1, :].sum(axis=-1, keepdims=True), hits.shape)
    return above.sum(axis=-2), hits, positives


def roc(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate as the threshold falls, each (groups, bins + 1)."""
    above = np.cumsum(np.flip(histogram, axis=-1), axis=-1)
    rates = divide(above, above[..., -1:])
    start = np.zeros((*rates.shape[:-1], 1))
    negative, positive = np.moveaxis(np.concatenate([start, rates], axis=-1), -2, 0)
    return negative, positive
