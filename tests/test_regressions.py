"""docs/regressions.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_every_fault_is_held_by_a_test() -> None:
    text = (TESTS.parent / "docs" / "regressions.md").read_text(encoding="utf-8")
    rows = [line.rpartition(" | ")[2] for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        file = ""
        for cited in re.findall(r"`([^`]+)`", row):
            path, _, name = cited.partition("::")
            file = path or file
            source = (TESTS / file).read_text(encoding="utf-8")
            assert f"def {name}(" in source if name else "def test_" in source, cited
