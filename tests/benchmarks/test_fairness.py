"""The table of mitigations tells every recipe from the others."""

from __future__ import annotations

import argparse

from benchmarks.fairness import _FIGURES, _FOLDER, _print_table


def test_every_recipe_stands_under_its_whole_name(capsys):
    names = sorted(path.stem for path in _FOLDER.glob("*.yaml"))
    rows = {name: {figure: [0.8593, 0.8611] for figure in _FIGURES} for name in names}
    _print_table(rows, argparse.Namespace(split="test", seeds=2))
    shown = capsys.readouterr().out
    assert len(names) > 30
    for name in names:
        assert f"│ {name} " in shown
