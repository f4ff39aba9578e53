"""The tutorials in docs/: every Python block runs, in order, in a folder of its own."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from training import randomness

DOCS = Path(__file__).parents[3] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", ["tutorial_make_private.md", "tutorial_custom_loop.md"])
def test_tutorial_runs_as_it_stands(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    # The pages draw batches and noise from the operating system, and assert what they have learnt.
    monkeypatch.setattr(randomness.secrets, "randbits", random.Random(1).getrandbits)
    text = (DOCS / name).read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) >= 5
    names: dict[str, object] = {"__name__": "tutorial"}
    for block in blocks:
        # Lines as in the page, so that a traceback points there.
        padded = "\n" * text[: block.start(1)].count("\n") + block.group(1)
        exec(compile(padded, name, "exec"), names)
