"""Text towers of transformers, from local folders: configuration, tokenizer and weights."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch

from sclip_lab.core.errors import LabError
from sclip_lab.network.loading import load_backbone
from tests.network.small_networks import relative_error, shrink
from tests.network.text_folders import text_folder

pytest.importorskip("transformers", reason="an optional package")
pytestmark = pytest.mark.usefixtures("quiet")
NAMES = (
    *("roberta-ViT-B-32", "xlm-roberta-base-ViT-B-32", "coca_roberta-ViT-B-32"),
    *("mt5-base-ViT-B-32", "nllb-clip-base"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_local_folder(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shrink(monkeypatch, name)
    folder = text_folder(tmp_path / "text", name)
    backbone = load_backbone(name, text_folder=folder, device="cpu")
    texts = ["a photo of a cat", "sky", "a dog"]
    ids = backbone.tokenize(texts)
    with torch.inference_mode():
        expected = backbone.model.encode_text(ids, normalize=False)
    assert relative_error(backbone.encode_text(texts), expected) < 5e-6
    assert not torch.allclose(expected[0], expected[1])
    # A file of all weights, and back.
    torch.save(backbone.model.state_dict(), tmp_path / "it.pt")
    again = load_backbone(
        name, checkpoint=tmp_path / "it.pt", text_folder=folder, seed=5, device="cpu"
    )
    assert again.key == backbone.key
    assert again.text_key == backbone.text_key


def test_texts_that_are_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "roberta-ViT-B-32"
    shrink(monkeypatch, name)
    folder = text_folder(tmp_path / "text", name)
    backbone = load_backbone(name, text_folder=folder, device="cpu")
    with pytest.raises(LabError, match="tokens; roberta-ViT-B-32 reads 77"):
        backbone.encode_text(["cat " * 90])


def test_a_text_without_any_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "roberta-ViT-B-32"
    shrink(monkeypatch, name)
    # This tokenizer adds no start and end: the mean over an empty text is not a number.
    folder = text_folder(tmp_path / "text", name)
    backbone = load_backbone(name, text_folder=folder, device="cpu")
    with pytest.raises(LabError, match="the embedding of text '' is not finite"):
        backbone.encode_text(["a cat", ""])


def test_options_of_a_tokenizer_go_with_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SigLIP's texts are in lower case and without punctuation, wherever its tokenizer lies."""
    calls: list[tuple[object, dict[str, object]]] = []

    def tokenizer(*arguments: object, **options: object) -> object:
        calls.append((arguments, options))
        return lambda texts, **_: torch.ones(len(texts), 4, dtype=torch.long)

    shrink(monkeypatch, "ViT-B-16-SigLIP")
    monkeypatch.setattr(open_clip.tokenizer, "HFTokenizer", tokenizer)
    backbone = load_backbone("ViT-B-16-SigLIP", text_folder=tmp_path, device="cpu")
    backbone.tokenize(["a cat"])
    [(arguments, options)] = calls
    assert arguments == (str(tmp_path), 64)
    assert options["clean"] == "canonicalize"


@pytest.mark.usefixtures("offline")
def test_without_the_folder_the_advice_is_the_folder() -> None:
    with pytest.raises(LabError, match=r"roberta-base cannot be fetched from here.*text_folder="):
        load_backbone("roberta-ViT-B-32", device="cpu")


def test_code_of_a_folder_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "roberta-ViT-B-32"
    shrink(monkeypatch, name)
    folder = text_folder(tmp_path / "text", name)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LabError, match="runs code of a stranger"):
        load_backbone(name, text_folder=folder, device="cpu")
    with pytest.raises(LabError, match=r"there is no config\.json of roberta-base"):
        load_backbone(name, text_folder=tmp_path, device="cpu")
