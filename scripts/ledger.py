"""Shows what a private run has spent, and by which releases."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from configs.schema import UserError
from scripts.arguments import new_parser, parse
from scripts.command import run_command, start_tensorflow

if TYPE_CHECKING:
    from training.privacy.ledger import Ledger, Release


@dataclass(frozen=True)
class Span:
    """Releases of consecutive steps under one randomness: what one process did without a break.

    Attributes:
        first_step: Its first step, from 0.
        releases: How many.
        randomness: Tells it from a span that drew other noise and other batches.
        repeated_steps: How many of its steps had been released before, and so cost again.
    """

    first_step: int
    releases: int
    randomness: str
    repeated_steps: int


def spans_of(history: Iterable[Release]) -> list[Span]:
    """Cuts a ledger's history where the steps or the randomness are not those that follow."""
    spans: list[Span] = []
    seen: set[int] = set()
    numbered = enumerate(history)
    for _, group in groupby(numbered, lambda pair: (pair[1].step - pair[0], pair[1].randomness)):
        releases = [release for _, release in group]
        steps = {release.step for release in releases}
        spans.append(
            Span(releases[0].step, len(releases), releases[0].randomness, len(steps & seen))
        )
        seen |= steps
    return spans


def main(argv: Sequence[str]) -> None:
    """Body of `sterling ledger`."""
    parser = new_parser("ledger", "RUN [--json]", __doc__)
    parser.add_argument("run", type=str, help="Run directory.")
    parser.add_argument("--json", action="store_true", help="As JSON, for other programs.")
    options = parse(parser, argv)

    start_tensorflow(debug=options.debug)
    from training.privacy.ledger import Ledger
    from training.run_directory import RunDirectory

    run = RunDirectory.existing(options.run)
    if not run.ledger.exists():
        raise UserError(f"{run.ledger}: is missing: the run is not private, or lost its ledger.")
    account = account_of(Ledger.existing(run.ledger))
    if options.json:
        print(json.dumps(account, indent=1))
    else:
        _print(str(run.root), account)


def account_of(ledger: Ledger) -> dict[str, Any]:
    """What was spent, what was planned, and by which releases; fit for JSON."""
    from training.privacy.comparison import compared

    plan, spans, spent = ledger.plan, [], 0
    for span in spans_of(ledger.history):
        spent += span.releases
        # Steps that are run again take the tables that they took before.
        tables = min(plan.tables(spent), ledger.tables)
        spans.append({**vars(span), "epsilon_after": plan.epsilon(spent, tables)})
    return {
        "epsilon": ledger.epsilon if spent or ledger.tables else 0.0,
        "delta": plan.delta,
        "releases": ledger.releases,
        "planned_epsilon": plan.epsilon(plan.steps),
        "planned_releases": plan.steps,
        "repeated_releases": sum(span["repeated_steps"] for span in spans),
        "comparison": compared(ledger.event, plan.delta),
        "plan": plan.to_dict(),
        "group_tables": ledger.tables,
        "validation": list(ledger.validation),
        "spans": spans,
    }


def _print(root: str, account: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Privacy ledger of {root}", title_justify="left")
    table.add_column("Steps")
    for heading in ("Releases", "Released again", "Epsilon after"):
        table.add_column(heading, justify="right")
    table.add_column("Randomness", style="dim")
    for span in account["spans"]:
        first = span["first_step"] + 1
        table.add_row(
            f"{first} to {first + span['releases'] - 1}",
            f"{span['releases']:,}",
            f"{span['repeated_steps']:,}",
            f"{span['epsilon_after']:.4g}",
            span["randomness"],
        )
    console = Console()
    console.print(table)
    console.print(
        f"Spent: epsilon {account['epsilon']:.4g} at delta {account['delta']:.3g} by "
        f"{account['releases']:,} releases. Planned: epsilon {account['planned_epsilon']:.4g} by "
        f"{account['planned_releases']:,}.",
        soft_wrap=True,
    )
    if account["plan"].get("unit") == "user":
        sampling, rows = account["plan"]["sampling"], account["plan"]["rows_per_record"]
        console.print(
            f"Protected: each of {sampling['num_users']:,} users with all of their training "
            f"examples; {sampling['batch_size']:,} users a step, at most {rows} examples of each.",
            soft_wrap=True,
        )
    others = [name for name in account["comparison"] if name != account["plan"]["accountant"]]
    if others:
        said = ", ".join(f"{name} {account['comparison'][name]:.4g}" for name in others)
        console.print(f"For comparison, of what was spent: {said}.", soft_wrap=True)
    if account["group_tables"]:
        console.print(
            f"Counted in beside them: {account['group_tables']:,} noisy tables of training "
            "examples by group and label.",
            soft_wrap=True,
        )
    for release in account["validation"]:
        console.print(
            f"Of the validation examples: a histogram at epsilon {release['epsilon']:.4g}, delta "
            f"{release['delta']:.3g} ({release['neighbours']}). They are not those of training.",
            soft_wrap=True,
        )
    if account["repeated_releases"]:
        console.print(
            f"{account['repeated_releases']:,} releases repeat a step after an interruption, with "
            "fresh noise: each counts.",
            soft_wrap=True,
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
