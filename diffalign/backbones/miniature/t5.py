"""A T5 tokenizer and encoder in small, for the miniatures whose family reads its prompts with T5."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import nn
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


@torch.no_grad()
def read_in_order(encoder: nn.Module, strength: float = 5.0) -> None:
    """Lets heads of a T5 or UMT5 with random weights begin with a direction: the token before, the one after, all before, or all after.

    T5 begins with a bias of attention near 0 at every distance (Raffel et al. 2020, arXiv:1910.10683, section 2.1). A small one that is
    trained from there beside a denoiser stays so: it reads a bag of words, in which "a beep, then noise" is "noise, then a beep".
    """
    for module in encoder.modules():
        if not getattr(module, "has_relative_attention_bias", False):
            continue
        bias: torch.Tensor = module.relative_attention_bias.weight  # (buckets, heads): half are of keys before, half of keys after
        half = bias.shape[0] // 2
        for head, buckets in zip(range(bias.shape[1]), cycle(([1], [half + 1], range(1, half), range(half + 1, 2 * half)))):
            bias[list(buckets), head] = strength


def name_tokenizer(folder: Path) -> None:
    """transformers 5 saves the tokenizer under a name that transformers 4 does not know; both know this one."""
    for file in (folder / "model_index.json", folder / "tokenizer" / "tokenizer_config.json"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("TokenizersBackend", "PreTrainedTokenizerFast"), encoding="utf-8")
