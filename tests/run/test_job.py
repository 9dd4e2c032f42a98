"""One job, and what the jobs of a sweep share."""

from __future__ import annotations

from typing import Any

import pytest

from sclip_lab.core.errors import LabError
from sclip_lab.run import job


@pytest.mark.parametrize("made", [job.make_backbone, job.make_guidance])
def test_a_network_that_cannot_be_loaded_is_tried_once(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that does not answer takes most of a minute, and a sweep has many jobs."""
    tries = []

    def load(name: str) -> None:
        tries.append(name)
        raise LabError("its weights cannot be fetched from here")

    monkeypatch.setattr(job, "failures", {})
    monkeypatch.setattr(job, "backbone_loader", lambda target: load)
    monkeypatch.setattr("sclip_lab.network.guidance.load_guidance", load)
    for _ in range(3):
        with pytest.raises(LabError, match="cannot be fetched"):
            made('{"name": "far away"}')
    assert tries == ["far away"]
    job.failures.clear()  # as each page of studies does
    with pytest.raises(LabError, match="cannot be fetched"):
        made('{"name": "far away"}')
    assert len(tries) == 2
