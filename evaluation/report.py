"""The table in the terminal at the end of a run: how good, how fair, how private, how long, where.

Promises: never wider than 100 columns; plain text where the output is no terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.measurements import Evaluation

_WIDEST = 100
_SHOWN_GAPS = ("demographic_parity_difference", "equalized_odds_difference")
_RULE_UNDER_HEAD = box.SIMPLE_HEAD
_INTERVAL_COLUMNS = len("0.000 (0.000, 0.000)")


def print_report(
    evaluation: Evaluation,
    *,
    privacy: Mapping[str, Any] | None,
    seconds: Mapping[str, float],
    paths: Mapping[str, Path],
    console: Console | None = None,
) -> None:
    """Prints the report of a finished run.

    Args:
        evaluation: What was measured.
        privacy: `epsilon`, `delta`, and anything else worth a line; None trained without privacy.
        seconds: Stage -> seconds.
        paths: What -> where it lies.
        console: Where to print; none is standard output.
    """
    console = console or Console()
    width = min(console.width, _WIDEST)
    parts: list[Table | Text] = [_headline(evaluation, privacy, seconds)]
    if evaluation.fairness["attributes"]:
        parts += [_gaps(evaluation), *_remarks(evaluation)]
    if "decisions" in evaluation.further:
        parts += [*_decisions(evaluation.further["decisions"])]
    if "clipping" in evaluation.further:
        parts.append(_clipping(evaluation.further["clipping"]))
    if evaluation.counterfactual is not None:
        parts.append(_counterfactuals(evaluation.counterfactual))
    parts.append(_places(paths))
    for part in parts:
        if isinstance(part, Table):
            console.print()
        console.print(part, width=width)


def _headline(
    evaluation: Evaluation, privacy: Mapping[str, Any] | None, seconds: Mapping[str, float]
) -> Table:
    measured = evaluation.performance
    examples = evaluation.counts["examples"]
    title = f"Measured on {examples:,} examples of the {evaluation.split} split"
    if not evaluation.covered_by_privacy_guarantee:
        title += " (not covered by ε)"
    table = _new_table(title)
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", style="dim")
    share = f"{measured['majority_share']:.4f} by always naming the commonest label"
    table.add_row("accuracy", _show(measured["accuracy"]), share)
    table.add_row("balanced accuracy", _show(measured["balanced_accuracy"]), "")
    f1 = f"weighted {_show(measured['weighted']['f1'])}"
    table.add_row("F1, macro", _show(measured["macro"]["f1"]), f1)
    reasons = measured["reasons"]
    table.add_row("ROC-AUC", _show(measured["roc_auc"]), reasons.get("roc_auc", ""))
    table.add_row("loss", _show(measured["loss"]), reasons.get("loss", "mean cross-entropy"))
    calibration = measured["calibration"] or {"ece": None}
    table.add_row(
        "calibration error", _show(calibration["ece"]), reasons.get("calibration", "ECE, 15 bins")
    )
    for row in _privacy_rows(privacy):
        table.add_row(*row)
    table.add_row(
        "seconds",
        f"{sum(seconds.values()):,.0f}",
        ", ".join(f"{stage} {spent:,.1f}" for stage, spent in seconds.items()),
    )
    return table


def _privacy_rows(privacy: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    if privacy is None:
        return [("ε", "none", "trained without differential privacy")]
    further = [
        f"{name.replace('_', ' ')} {_brief(value)}"
        for name, value in privacy.items()
        if name not in ("epsilon", "delta") and isinstance(value, (bool, int, float, str))
    ]
    return [
        ("ε", _brief(privacy["epsilon"]), ", ".join(further)),
        ("δ", _brief(privacy["delta"]), ""),
    ]


def _gaps(evaluation: Evaluation) -> Table:
    confidence = evaluation.fairness["confidence"]
    table = _new_table(
        f"Gaps between groups, with {confidence:.0%} intervals (0 is parity)", ruled=True
    )
    table.add_column("attribute")
    table.add_column("demographic parity", min_width=_INTERVAL_COLUMNS)
    table.add_column("equalized odds", min_width=_INTERVAL_COLUMNS)
    table.add_column("least and most often selected")
    for attribute, comparison in evaluation.fairness["attributes"].items():
        parity = comparison["gaps"]["demographic_parity_difference"]
        odds = comparison["gaps"]["equalized_odds_difference"]
        table.add_row(attribute, _interval(parity), _interval(odds), _extremes(comparison, parity))
    return table


def _extremes(comparison: Mapping[str, Any], gap: Mapping[str, Any]) -> str:
    if gap["value"] is None:
        return ""
    label = gap["label"]
    return "\n".join(
        f"{name} {comparison['groups'][name]['rates'][label]['selection_rate']:.1%}"
        for name in dict.fromkeys(gap["between"])  # one, where all are selected alike
    )


def _remarks(evaluation: Evaluation) -> list[Text]:
    minimum = evaluation.fairness["minimum_group_size"]
    small = {
        attribute: [
            f"{name} ({group['count']})"
            for name, group in comparison["groups"].items()
            if group["too_small"]
        ]
        for attribute, comparison in evaluation.fairness["attributes"].items()
    }
    uncertain = [
        Text(f"{attribute}: {gap['warning']} ({name.replace('_', ' ')})", style="dim")
        for attribute, comparison in evaluation.fairness["attributes"].items()
        for name, gap in comparison["gaps"].items()
        if name in _SHOWN_GAPS and gap.get("warning")
    ]
    return uncertain + [
        Text(
            f"{attribute}: fewer than {minimum} examples, kept out of the gaps: {', '.join(names)}",
            style="dim",
        )
        for attribute, names in small.items()
        if names
    ]


def _decisions(section: Mapping[str, Any]) -> list[Table | Text]:
    attribute = section["rule"]["attribute"]
    how = "a threshold 0.5" if attribute is None else f"thresholds by {attribute}"
    table = _new_table(f"Answers by the largest score, and decided by {how}", ruled=True)
    table.add_column("")
    table.add_column("largest score", justify="right")
    table.add_column("decided", justify="right")
    after = section["after"] or {}
    for name, before in section["before"].items():
        if name != "groups":
            table.add_row(name.replace("_", " "), _show(before), _show(after.get(name)))
    remarks = [Text(f"Decided: {section['measured']}.", style="dim")]
    if "abstained" in section:
        share = section["abstained"]["share"]
        remarks = [Text(f"No answer: {share:.1%}; 'decided' is of the others.", style="dim")]
    if section.get("private") is not None:
        private = section["private"]
        said = (
            f"Thresholds cost the validation examples ε {private['epsilon']:.4g} at "
            f"δ {private['delta']:.3g}."
        )
        if private["groups_kept_at_half"]:
            kept = ", ".join(private["groups_kept_at_half"])
            said += f" Kept at 0.5, too few people to fit or to compare with: {kept}."
        remarks.append(Text(said, style="dim"))
    return [table, *remarks]


def _clipping(section: Mapping[str, Any]) -> Table:
    covered = "covered by ε" if section["covered_by_privacy_guarantee"] else "not covered by ε"
    table = _new_table(f"Whose gradients were cut while training ({covered})", ruled=True)
    table.add_column(section["attribute"])
    table.add_column("examples drawn", justify="right")
    table.add_column("cut", justify="right")
    table.add_column("median norm, of the bound", justify="right")
    for name, group in section["run"]["groups"].items():
        drawn = f"{group['examples']:,.0f}"
        if group["clipped_share"] is None:
            table.add_row(name, drawn, f"undefined: {group['reason']}", "")
            continue
        share = f"{group['clipped_share']:.1%}"
        if group["standard_error"]:
            share += f" ± {group['standard_error']:.1%}"
        table.add_row(name, drawn, share, f"{group['relative_norm']['0.5']:.3g}")
    return table


def _counterfactuals(section: Mapping[str, Any]) -> Table:
    table = _new_table(
        "Had the person been another: how often and how far answers move", ruled=True
    )
    table.add_column("changed")
    table.add_column("examples", justify="right")
    table.add_column("answers that flip", min_width=_INTERVAL_COLUMNS)
    table.add_column("mean shift of the score", min_width=_INTERVAL_COLUMNS)
    for name, found in section["perturbations"].items():
        if found["flip_rate"] is None:
            table.add_row(name, "0", f"undefined: {found['reason']}", "")
            continue
        low, high = found["flip_rate_interval"]
        flips = {"value": found["flip_rate"], "low": low, "high": high}
        shift = {**found["score_shift"], "value": found["score_shift"]["mean"]}
        table.add_row(name, f"{found['changed']:,}", _interval(flips), _interval(shift))
    return table


def _places(paths: Mapping[str, Path]) -> Table:
    table = _new_table("Where everything lies")
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("", overflow="fold")
    for what, where in paths.items():
        table.add_row(what, Text(str(where)))
    return table


def _new_table(title: str, *, ruled: bool = False) -> Table:
    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=_RULE_UNDER_HEAD if ruled else None,
        show_header=ruled,
        show_edge=False,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )


def _interval(gap: Mapping[str, Any]) -> str:
    if gap["value"] is None:
        return f"undefined: {gap['reason']}"
    if gap["low"] is None:
        return f"{gap['value']:.3f}"
    return f"{gap['value']:.3f} ({gap['low']:.3f}, {gap['high']:.3f})"


def _show(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
