"""Text towers of transformers, from local folders: configuration, tokenizer and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sclip_lab.core.errors import LabError
from sclip_lab.network.loading import load_backbone
from tests.network.small_networks import relative_error, shrink

transformers = pytest.importorskip("transformers", reason="an optional package")
pytestmark = pytest.mark.usefixtures("quiet")
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "photo", "of", "cat", "dog", "sky"]
SMALL = {"vocab_size": 64, "pad_token_id": 1}
PARTS = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta-ViT-B-32": ("RobertaConfig", PARTS),
    "xlm-roberta-base-ViT-B-32": ("XLMRobertaConfig", PARTS),
    "coca_roberta-ViT-B-32": ("RobertaConfig", PARTS),
    "mt5-base-ViT-B-32": (
        "MT5Config",
        {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2},
    ),
    "nllb-clip-base": (
        "M2M100Config",
        {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    ),
}  # fmt: skip


def text_folder(path: Path, kind: str, sizes: dict[str, Any]) -> Path:
    """What a hub's folder of a text tower has: its configuration and its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = getattr(transformers, kind)(**sizes, **SMALL)
    config.save_pretrained(path)
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(path)
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_local_folder(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shrink(monkeypatch, name)
    folder = text_folder(tmp_path / "text", *CONFIGS[name])
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
    folder = text_folder(tmp_path / "text", *CONFIGS[name])
    backbone = load_backbone(name, text_folder=folder, device="cpu")
    with pytest.raises(LabError, match="tokens; roberta-ViT-B-32 reads 77"):
        backbone.encode_text(["cat " * 90])


@pytest.mark.usefixtures("offline")
def test_without_the_folder_the_advice_is_the_folder() -> None:
    with pytest.raises(LabError, match=r"roberta-base cannot be fetched from here.*text_folder="):
        load_backbone("roberta-ViT-B-32", device="cpu")


def test_code_of_a_folder_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "roberta-ViT-B-32"
    shrink(monkeypatch, name)
    folder = text_folder(tmp_path / "text", *CONFIGS[name])
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LabError, match="runs code of a stranger"):
        load_backbone(name, text_folder=folder, device="cpu")
    with pytest.raises(LabError, match=r"there is no config\.json of roberta-base"):
        load_backbone(name, text_folder=tmp_path, device="cpu")
