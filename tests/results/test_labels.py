"""Labels belong to the asking: the cell keeps all, the one who asks sees their own."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import sclip_lab as lab
from sclip_lab import results
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.results.store.spec_labels import labels
from sclip_lab.segmentation.protocol import Protocol
from tests.running import evaluate as run


@pytest.mark.parametrize("plain_first", [True, False])
def test_one_cell_under_two_labels(
    plain_first: bool, tmp_path: Path, backbone: Backbone, photos: Folder, protocol: Protocol
) -> None:
    long = lab.load_attention("csa_q", residual=False, mlp=False)
    requests = [
        Spec(lab.load_attention("clearclip"), backbone, protocol, photos, "clearclip"),
        Spec(long, backbone, protocol, photos, "csa_q(residual=False, mlp=False)"),
    ]
    assert requests[0].key == requests[1].key
    csa = Spec(lab.load_attention("csa"), backbone, protocol, photos, "csa")
    for spec in requests if plain_first else reversed(requests):
        df = evaluate([spec, csa], tmp_path / "store", progress=False)
        assert set(df["attention"]) == {spec.label, "csa"}
    # Without an asking the shortest of the labels, whichever came first.
    loaded = results.load(tmp_path / "store")
    assert set(loaded["attention"]) == {"clearclip", "csa"}
    assert loaded["spec"].nunique() == 2
    assert len(results.difference(loaded, "clearclip", "csa"))


def test_vanilla_after_a_sweep_of_temperatures(tmp_path: Path) -> None:
    swept = run(tmp_path, "-m", "attention=sharpened", "attention.temperature=0.5,1")
    assert swept.code == 0, swept.err
    assert "sharpened(temperature=1.0)" in swept.out
    result = run(tmp_path, "-m", "attention=vanilla,csa")
    assert result.code == 0, result.err
    assert "vanilla on patchwork" in result.out
    assert set(results.load(tmp_path / "store")["attention"]) == {"sharpened", "vanilla", "csa"}


def test_a_refinement_is_named_also_where_the_variant_is_there_once() -> None:
    table = pd.DataFrame(
        {
            "spec": ["a", "b", "c"],
            "attention": ["csa", "naclip", "itaclip"],
            "protocol": ["sclip", "sclip", "itaclip"],
            "protocol.refinement._target_": [
                None,
                "refinements.pamr.pamr",
                "refinements.x.closing",
            ],
        }
    )
    assert labels(table) == ["csa", "naclip · pamr", "itaclip"]
