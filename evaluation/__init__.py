"""Predictions to measurements to reports. Knows no training.

`Predictions` (a model's answers over a split) go through every evaluator of
`measurements.EVALUATORS`; the resulting `Evaluation` is plain JSON data. Sinks (TensorBoard
callbacks, plots, the terminal report) know nothing of how it was computed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "callbacks": ["FairnessCallback", "PrivacyCallback"],
        "clipping": ["ClippingCallback", "clipping_section"],
        "decisions": [
            "fit_from_counts",
            "fit_rule",
            "measure_decisions",
            "scores_of",
            "write_decisions",
        ],
        "fairness": [
            "StreamingFairness",
            "check_soft_groups",
            "measure_fairness",
            "with_soft_groups",
        ],
        "measurements": ["EVALUATORS", "Evaluation", "evaluate"],
        "performance": ["measure_performance"],
        "counterfactual": ["check_counterfactuals", "measure_counterfactuals"],
        "predict": ["answer_raw", "predict_arrays", "predict_batches"],
        "predictions": ["Predictions"],
        "report": ["print_report"],
    },
)
