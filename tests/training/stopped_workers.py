"""One of two joined workers; may get its own SIGTERM in the middle of a logical batch.

    TF_CONFIG=... python -m tests.training.stopped_workers RUN [--stop-after-additions N]

Prints the step it stopped after (JSON) and exits as the command does, or a digest of the weights
it ends with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from dataclasses import replace
from typing import Any

from tests.training.conftest import BASE, PRIVATE
from training.interruption import Stopped
from training.privacy.ledger import Ledger
from training.run_directory import RunDirectory
from training.session import open_session

RECIPE = replace(
    BASE,
    privacy=PRIVATE,
    # About six physical batches a step.
    training=replace(BASE.training, strategy="multi_worker", steps=12, physical_batch_size=8),
)


def signal_after(step: Any, additions: int) -> None:
    """Makes `step.add` send this process a SIGTERM when it has been called so often."""
    add, left = step.add, additions

    def counting(batch: Any) -> Any:
        nonlocal left
        totals = add(batch)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return totals

    step.add = counting


def main() -> int:
    """Trains; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--stop-after-additions", type=int, default=0)
    arguments = parser.parse_args()
    session = open_session(RECIPE)
    run = RunDirectory.at(arguments.run)
    run.root.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(run.ledger, session.plan, writes=session.workers.is_chief)
    loop = session.loop(run, [], ledger, verbose=0)
    if arguments.stop_after_additions:
        signal_after(loop.step, arguments.stop_after_additions)
    started = time.monotonic()
    try:
        loop.run()
    except Stopped as stop:
        print(json.dumps({"step": stop.step}))
        return stop.exit_code
    seconds = time.monotonic() - started
    weights = b"".join(weight.tobytes() for weight in loop.model.get_weights())
    print(json.dumps({"weights": hashlib.sha256(weights).hexdigest(), "seconds": seconds}))
    session.workers.from_chief(None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
