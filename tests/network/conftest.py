"""What several tests of networks start from."""

from __future__ import annotations

import pytest
from torch import Tensor

from sclip_lab.network.backbone import Backbone


@pytest.fixture(scope="module")
def weights(backbone: Backbone) -> dict[str, Tensor]:
    """The toy network's, to be changed at will."""
    return {key: value.clone() for key, value in backbone.model.state_dict().items()}
