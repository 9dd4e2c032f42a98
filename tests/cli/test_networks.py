"""``sclip-lab networks`` and the page that is made by it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import timm

from sclip_lab.cli import networks
from sclip_lab.cli.main import parser_of
from sclip_lab.core.errors import LabError
from sclip_lab.network.survey import survey

PAGE = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of the tables, heads included."""
    for line in text.splitlines():
        if line.startswith("| "):
            yield line.strip("| ").split(" | ")


def test_the_page_has_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for family in ("pe_core_tiny", "ViT-B-16-quickgelu", "18x2", "roberta-vit", "resnet18d"):
        words = ["--family", family, "--markdown", str(tmp_path / "some.md")]
        assert networks.run(parser_of("networks").parse_args(words)) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "some.md").read_text().rstrip() in text
    page = list(rows(PAGE))
    current = f"open_clip {version('open_clip_torch')} and timm {version('timm')}" in PAGE
    for row in rows(text):
        # Another release of a library may know more of a network, but in the same columns.
        assert row in page if current else [row[0], len(row)] in [[r[0], len(r)] for r in page]
    assert PAGE.splitlines()[0] == text.splitlines()[0]
    assert "resnet18d" not in text
    assert "1 more names are no vision transformers" in text


def test_the_page_counts_its_rows() -> None:
    for library, names in (("open_clip", "ViT-B-16"), ("timm", "vit_base_patch16_224")):
        _, _, behind = PAGE.partition(f"## {library}: ")
        count, _, table = behind.partition(" load\n")
        loaded = list(rows(table.partition("\n## ")[0]))[2:]
        assert len(loaded) == int(count)
        assert names in [row[0] for row in loaded]
        assert all(row[1].isdecimal() and row[2].isdecimal() for row in loaded)


def test_a_family_without_members_is_an_error() -> None:
    with pytest.raises(LabError, match="--family zzz: no name of open_clip or timm"):
        networks.run(argparse.Namespace(family="zzz", all=False, markdown=None))


def test_a_network_without_published_weights_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name, allow_unregistered: None)
    [network, *_] = survey("vit_tiny_patch16_224")
    assert "| none | GELU | none published |" in networks.markdown([network], 0)
