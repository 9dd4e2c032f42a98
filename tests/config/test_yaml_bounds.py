"""A stranger's yaml cannot take all time or memory by what is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

import sclip_lab as lab
from sclip_lab.config import folders, guard
from sclip_lab.config.registry import conf_dir
from sclip_lab.core.errors import LabError


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{" * 3000, "nested more than 50"),
        (b"- " * 2000, "nested more than 50"),
        (b"a: " + b"x" * 1_000_001, "at most 1000000 bytes"),
        (b"a: &a [x]\n" + b"b: [" + b"*a, " * 30 + b"]\n",
         "anchors"),
        (b"a: \xff\xfe", "utf-8"),
        (b"a: [", "case.yaml"),
        (b"[1, 2]", "attention 'case': its yaml holds \\[1, 2\\], not a mapping"),
        (b"_target_: sclip_lab.attention.vanilla.self_attention\nx: \"a\nb", "case.yaml"),
    ],
)  # fmt: skip
def test_yaml_that_would_not_end(
    content: bytes, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_added", [tmp_path])
    path = tmp_path / "attention" / "case.yaml"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(LabError, match=text) as found:
        lab.load_attention("case")
    assert "\n" not in str(found.value)


def test_the_packages_own_pass() -> None:
    for path in conf_dir().rglob("*.yaml"):
        guard.check_file(path)
