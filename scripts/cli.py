"""The `sterling` command: finds the subcommand and hands over. Imports nothing heavy."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

# Subcommand -> module with a `main(argv)` and a line of help (its docstring's first line).
COMMANDS = {
    "train": "scripts.train",
    "evaluate": "scripts.evaluate",
    "export": "scripts.export",
    "check-private": "scripts.check_private",
    "check-tpu": "scripts.check_tpu",
    "ledger": "scripts.ledger",
    "data-service": "scripts.data_service",
}


def _help() -> str:
    lines = ["usage: sterling COMMAND [...]", "", "commands:"]
    for name, module in COMMANDS.items():
        lines.append(f"  {name:14} {_summary(module)}")
    lines += ["", "sterling COMMAND --help lists a command's settings."]
    return "\n".join(lines)


def _summary(module: str) -> str:
    """The first line of a module's docstring, read off its source: importing takes longer."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"no module {module}")
    source = Path(spec.origin).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `sterling COMMAND ...`; returns the exit code."""
    from scripts.command import run_command

    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] not in COMMANDS:
        print(
            f"sterling: expected a command, one of {', '.join(COMMANDS)}. Received: {argv[0]!r}",
            file=sys.stderr,
        )
        return 2
    return run_command(importlib.import_module(COMMANDS[argv[0]]).main, argv[1:])


if __name__ == "__main__":
    sys.exit(main())
