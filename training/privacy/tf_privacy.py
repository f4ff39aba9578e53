"""The one place that imports TF-Privacy, and the quirk it takes to do so.

TF-Privacy 0.9 imports the estimator API, which TensorFlow dropped in 2.16. Its own escape hatch,
an attribute on `sys` read by its `__init__`, keeps the parts that need no estimator importable:
the DP queries (noise, adaptive clipping, tree aggregation) and the analyses.
"""

from __future__ import annotations

import sys

sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]

from tensorflow_privacy.privacy.analysis import gdp_accountant  # noqa: E402
from tensorflow_privacy.privacy.dp_query.gaussian_query import GaussianSumQuery  # noqa: E402
from tensorflow_privacy.privacy.dp_query.normalized_query import NormalizedQuery  # noqa: E402
from tensorflow_privacy.privacy.dp_query.quantile_adaptive_clip_sum_query import (  # noqa: E402
    QuantileAdaptiveClipSumQuery,
)
from tensorflow_privacy.privacy.dp_query.quantile_estimator_query import (  # noqa: E402
    QuantileEstimatorQuery,
)
from tensorflow_privacy.privacy.dp_query.tree_aggregation import (  # noqa: E402
    TreeAggregator,
    ValueGenerator,
)

__all__ = [
    "GaussianSumQuery",
    "NormalizedQuery",
    "QuantileAdaptiveClipSumQuery",
    "QuantileEstimatorQuery",
    "TreeAggregator",
    "ValueGenerator",
    "gdp_accountant",
]
