"""The plan in the ledger's header: only while its bytes stay as they were do old ledgers go on."""

import json

import pytest

from configs.schema import ClippingSettings, MechanismSettings, PrivacySettings, SamplingSettings
from training.privacy.clip_watch import ClipWatch
from training.privacy.group_releases import GroupReleases
from training.privacy.plan import PrivacyPlan

# What was asked for, the document that Sterling 0.1 wrote of it, and its fingerprint. Do not bring
# them up to date: whoever has such a ledger could no longer resume.
WRITTEN = {
    "dp-sgd": (
        {},
        {},
        '{"sampling": {"method": "poisson", "num_examples": 1000, "batch_size": 50}, '
        '"clipping": {"method": "flat", "clipping_norm": 1.0}, '
        '"mechanism": {"method": "gaussian", "noise_multiplier": 1.5, "levels": [[0, 1.0]]}, '
        '"steps": 6, "delta": 1e-05, "accountant": "pld", "neighbours": "add_remove", '
        '"rows_per_record": 1}',
        "7dec201cb38ed362",
    ),
    "users": (
        {"unit": "user", "examples_per_user": 4, "accountant": "rdp"},
        {},
        '{"unit": "user", '
        '"sampling": {"method": "poisson", "batch_size": 50, "num_users": 1000}, '
        '"clipping": {"method": "flat", "clipping_norm": 1.0}, '
        '"mechanism": {"method": "gaussian", "noise_multiplier": 1.5, "levels": [[0, 1.0]]}, '
        '"steps": 6, "delta": 1e-05, "accountant": "rdp", "neighbours": "add_remove", '
        '"rows_per_record": 4}',
        "a0b11ce99540d3d4",
    ),
    "counts and tables beside": (
        {
            "sampling": SamplingSettings("fixed_size"),
            "clipping": ClippingSettings("adaptive"),
        },
        {
            "watch": ClipWatch("sex", 2, 0.01),
            "group_releases": GroupReleases("loss", 5.0, first=0, every=10),
        },
        '{"sampling": {"method": "fixed_size", "num_examples": 1000, "batch_size": 50}, '
        '"clipping": {"method": "adaptive", "clipping_norm": 1.0, "target_quantile": 0.5, '
        '"learning_rate": 0.2, "count_share": null}, '
        '"mechanism": {"method": "gaussian", "noise_multiplier": 1.5, "levels": [[0, 1.0]]}, '
        '"steps": 6, "delta": 1e-05, "accountant": "pld", "neighbours": "replace_one", '
        '"rows_per_record": 1, "watch": {"attribute": "sex", "groups": 2, "share": 0.01}, '
        '"group_releases": {"statistic": "loss", "noise_multiplier": 5.0, "first": 0, '
        '"every": 10}}',
        "b7dc6d60b826f35b",
    ),
    "tree": (
        {
            "sampling": SamplingSettings("shuffled"),
            "mechanism": MechanismSettings("tree"),
            "clipping": ClippingSettings("per_layer"),
        },
        {},
        '{"sampling": {"method": "shuffled", "num_examples": 1000, "batch_size": 50}, '
        '"clipping": {"method": "per_layer", "clipping_norm": 1.0}, '
        '"mechanism": {"method": "tree", "noise_multiplier": 1.5, "steps_per_epoch": 20}, '
        '"steps": 6, "delta": 1e-05, "accountant": "pld", "neighbours": "zero_out", '
        '"rows_per_record": 1}',
        "76ae18ec0bf3680d",
    ),
}


@pytest.mark.parametrize(
    ("settings", "beside", "document", "fingerprint"), WRITTEN.values(), ids=list(WRITTEN)
)
def test_document_and_fingerprint_are_those_of_ledgers_that_exist(
    settings, beside, document, fingerprint
):
    asked = PrivacySettings(enabled=True, noise_multiplier=1.5, delta=1e-5, **settings)
    plan = PrivacyPlan.from_settings(asked, num_examples=1000, batch_size=50, steps=6, **beside)
    assert json.dumps(plan.to_dict()) == document
    assert plan.fingerprint == fingerprint
    assert PrivacyPlan.from_dict(json.loads(document)) == plan
