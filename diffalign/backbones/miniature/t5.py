"""A T5 tokenizer and encoder in small, for the miniatures whose family reads its prompts with T5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def build_tokenizer(captions: Sequence[str], token_limit: int) -> PreTrainedTokenizerFast:
    """One token for each word of the captions, and </s> at the end as T5 has it; every other word is <unk>."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({word for caption in captions for word in caption.lower().replace(",", " , ").split()})
    names = [PAD, END, UNKNOWN, *words]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", pair=None, special_tokens=[(END, names.index(END))])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=token_limit, padding_side="right"
    )


def encoder_config(width: int, layers: int, heads: int, vocabulary: int) -> dict[str, Any]:
    """The arguments of T5Config and UMT5Config."""
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": width // heads,
        "d_ff": 2 * width,
        "num_layers": layers,
        "num_heads": heads,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def name_tokenizer(folder: Path) -> None:
    """transformers 5 saves the tokenizer under a name that transformers 4 does not know; both know this one."""
    for file in (folder / "model_index.json", folder / "tokenizer" / "tokenizer_config.json"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("TokenizersBackend", "PreTrainedTokenizerFast"), encoding="utf-8")
