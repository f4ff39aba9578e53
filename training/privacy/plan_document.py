"""A plan as plain data, as the ledger's header holds it, and back.

Ledgers outlive releases of Sterling: what stands here must go on reading what it once wrote, and
writing it byte for byte, because a ledger knows its plan again by the fingerprint of its document.
Hence what a plan does not have is left out, so that plans of before keep their documents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from training.privacy.clip_methods import CLIP_METHODS
from training.privacy.clip_watch import ClipWatch
from training.privacy.group_releases import GroupReleases
from training.privacy.mechanisms import MECHANISMS
from training.privacy.sampling import SAMPLINGS

if TYPE_CHECKING:
    from training.privacy.plan import PrivacyPlan


def document_of(plan: PrivacyPlan) -> dict[str, Any]:
    """The plan as plain data."""
    sampling = _part(plan.sampling)
    if plan.by_user:
        sampling["num_users"] = sampling.pop("num_examples")
    tables = plan.group_releases
    return {
        **({"unit": "user"} if plan.by_user else {}),
        "sampling": sampling,
        "clipping": _part(plan.clipping),
        "mechanism": _part(plan.mechanism),
        "steps": plan.steps,
        "delta": plan.delta,
        "accountant": plan.accountant,
        "neighbours": plan.neighbours,
        "rows_per_record": plan.rows_per_record,
        **({} if plan.watch is None else {"watch": asdict(plan.watch)}),
        **({} if tables is None else {"group_releases": tables.to_dict()}),
        **({"counterparts": True} if plan.counterparts else {}),
    }


def fields_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the `PrivacyPlan` that `document_of` described.

    Raises:
        KeyError, TypeError, SettingError: If it is none.
    """
    sampling = dict(document["sampling"])
    if document.get("unit") == "user":
        sampling["num_examples"] = sampling.pop("num_users")
    tables = document.get("group_releases")
    return {
        **document,
        "group_releases": None if tables is None else GroupReleases(**tables),
        "sampling": _of_part(SAMPLINGS, sampling),
        "clipping": _of_part(CLIP_METHODS, document["clipping"]),
        "mechanism": _of_part(MECHANISMS, document["mechanism"]),
        "watch": None if "watch" not in document else ClipWatch(**document["watch"]),
    }


def fingerprint_of(document: Mapping[str, Any]) -> str:
    """Changes whenever anything does that the guarantee depends on, but for the length."""
    parts = {key: value for key, value in document.items() if key != "steps"}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _part(part: Any) -> dict[str, Any]:
    # As JSON gives it back: lists, where the parts hold tuples.
    plain: dict[str, Any] = json.loads(json.dumps({"method": part.method, **asdict(part)}))
    return plain


def _of_part(registry: Mapping[str, type], document: Mapping[str, Any]) -> Any:
    fields = dict(document)
    return registry[fields.pop("method")](**fields)
