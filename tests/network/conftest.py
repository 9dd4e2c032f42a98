"""What several tests of networks start from."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from torch import Tensor

from sclip_lab.network.backbone import Backbone


@pytest.fixture(scope="module")
def weights(backbone: Backbone) -> dict[str, Tensor]:
    """The toy network's, to be changed at will."""
    return {key: value.clone() for key, value in backbone.model.state_dict().items()}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub can be reached, which its client then says at once."""
    # The client reads the variable when it is imported, and again in other processes.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def quiet() -> Iterator[None]:
    """open_clip warns about every model without pretrained weights; not here."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
