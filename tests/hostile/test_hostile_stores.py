"""Files of a store, changed: the cells beside keep their numbers, and every command ends well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sclip_lab import results
from sclip_lab.cli.main import main
from tests.hostile.outcome import changed, ends_well, examples
from tests.synthetic_store import write_pictures, write_store

COMMANDS = ("list", "verify", "repair", "gc", "export")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    root = tmp_path_factory.mktemp("store")
    keys = write_store(root, 2)
    write_pictures(root, keys, 1)
    return root, keys


def with_a_changed_file(root: Path, key: str, data: st.DataObject, run: Callable[[], None]) -> None:
    path = data.draw(st.sampled_from(sorted((root / "specs" / key).rglob("*.*"))))
    whole = path.read_bytes()
    content = data.draw(changed(whole).filter(lambda content: content != whole))
    path.write_bytes(content)
    try:
        ends_well(run, str(path), key[:12])
    finally:
        path.write_bytes(whole)


@given(data=st.data())
@examples(25)
def test_the_cell_is_refused_and_the_others_keep_their_numbers(
    store: tuple[Path, list[str]], data: st.DataObject
) -> None:
    root, (victim, other, *_) = store
    sound = results.load(root, [other])["pixels"].sum()
    victims = results.load(root, [victim])["pixels"].sum()

    def run() -> None:
        table = results.load(root)
        assert table.loc[table["spec"] == other[:12], "pixels"].sum() == sound
        table = results.load(root, [victim])
        assert table["pixels"].sum() == victims  # the change was in a picture

    with_a_changed_file(root, victim, data, run)


@pytest.mark.parametrize("command", COMMANDS)
@given(data=st.data())
@examples(4)
def test_every_command(store: tuple[Path, list[str]], command: str, data: st.DataObject) -> None:
    root, keys = store

    def run() -> None:
        more = ["--to", "out"] if command == "export" else []
        status = main(["store", command, "--store", str(root), *more])
        assert status == int(command == "verify")

    with_a_changed_file(root, keys[0], data, run)
