"""Copies of a process share the images, and the store holds what one process would have."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.core.signals import Interrupted
from sclip_lab.data.base import Sample
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.forked import evaluate_forked
from sclip_lab.evaluation.observers import Diagnostics
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation.protocol import Protocol
from tests.photos import CLASSES

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)
FIRST = os.getpid()


class Odd(Folder):
    """A folder that does something at its photo 1: ``happens(whether in a copy)``."""

    happens: Callable[[bool], None] = staticmethod(lambda _: None)

    def __getitem__(self, index: int) -> Sample:
        if index == 1:
            self.happens(os.getpid() != FIRST)
        return super().__getitem__(index)


@pytest.fixture
def odd(photos: Folder) -> Odd:
    return Odd("five", photos.root, "images", "masks", CLASSES)


@pytest.fixture
def run(odd: Odd, backbone: Backbone, protocol: Protocol, tmp_path: Path) -> Callable[..., Any]:
    """Evaluate two variants in two processes, or in one."""
    variants = [lab.load_attention(name) for name in ("vanilla", "csa")]
    specs = [Spec(variant, backbone, protocol, odd) for variant in variants]

    def both(folder: str, processes: int = 2, **how: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
        store = Store(tmp_path / folder)
        observers = [Diagnostics(["diagonal_mass", "patch_retrieval_miou"], 3)]
        requested = {"observers": observers, **how}
        df = evaluate_forked(specs, store, processes, progress=False, **requested)
        return df, lab.results.diagnostics(store.root)

    return both


def test_equal_to_one_process(run: Callable[..., Any]) -> None:
    for one, two in zip(run("one", 1), run("two", 2), strict=True):
        pd.testing.assert_frame_equal(one, two)
    _, measured = run("two", 2)
    assert measured.groupby("measure")["image"].nunique().tolist() == [3, 3]


def test_a_finished_store_is_not_shared_out(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("one", 1)
    monkeypatch.setattr(multiprocessing, "get_context", pytest.fail)
    run("one", 2)


def test_the_share_of_a_killed_copy_is_done_here(run: Callable[..., Any], odd: Odd) -> None:
    one, _ = run("one", 1)
    odd.happens = lambda copy: os.kill(os.getpid(), signal.SIGKILL) if copy else None
    two, _ = run("two", 2)
    pd.testing.assert_frame_equal(one, two)


def test_errors_are_those_of_one_process(run: Callable[..., Any], odd: Odd) -> None:
    def broken(copy: bool) -> None:
        raise LabError("photo 1 is damaged")

    odd.happens = broken
    with pytest.raises(LabError, match="photo 1 is damaged"):
        run("two", 2)
    df, _ = run("two", 2, on_error="skip")
    assert df["image"].nunique() == 2


def test_a_signal_ends_the_copies_too(run: Callable[..., Any], odd: Odd) -> None:
    def happens(copy: bool) -> None:
        if copy:
            time.sleep(0.2)  # the first process then waits for its copies
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(2)

    odd.happens = happens
    with pytest.raises(Interrupted):
        run("two", 2)
    assert not multiprocessing.active_children()
