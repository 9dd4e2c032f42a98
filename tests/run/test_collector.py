"""The collector of garbage is at work as always around networks, and after a command."""

from __future__ import annotations

import gc

import pytest

from sclip_lab.run import collector


def test_thresholds_come_back() -> None:
    before = gc.get_threshold()
    with collector.seldom():
        assert gc.get_threshold() == collector.SELDOM
        with collector.as_always():
            assert gc.get_threshold() == collector.ALWAYS
        assert gc.get_threshold() == collector.SELDOM
    assert gc.get_threshold() == before


def test_thresholds_come_back_after_an_error() -> None:
    before = gc.get_threshold()
    with pytest.raises(ValueError, match="an end"), collector.seldom():
        raise ValueError("an end")
    assert gc.get_threshold() == before
