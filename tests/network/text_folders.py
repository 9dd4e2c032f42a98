"""Folders of text towers of transformers, as a hub would give them, made small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
# Part of open_clip's name of a network -> transformers' class and its sizes; the first that fits.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "xlm-roberta": ("XLMRobertaConfig", PARTS),
    "roberta": ("RobertaConfig", PARTS),
    "mt5": (
        "MT5Config",
        {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2},
    ),
    "nllb": (
        "M2M100Config",
        {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    ),
}  # fmt: skip


def text_folder(path: Path, name: str) -> Path:
    """Write the configuration and the tokenizer of a network's text tower."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    kind, sizes = next(config for part, config in CONFIGS.items() if part in name)
    config = getattr(transformers, kind)(**sizes, **SMALL)
    config.save_pretrained(path)
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(path)
    return path
