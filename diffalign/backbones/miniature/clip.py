"""A CLIP tokenizer in small, for the miniatures whose family reads its prompts with CLIP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import CLIPTokenizer


def build_tokenizer(texts: Sequence[str], folder: Path, token_limit: int) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges are learned from `texts`, so that each of their words is one token; any other text
    still encodes.

    Its files are written to folder (vocab.json, merges.txt).
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'!?-"
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=4096, end_of_word_suffix="</w>", initial_alphabet=list(letters), show_progress=False)
    )
    merges = json.loads(learner.to_str())["model"]["merges"]
    symbols = [*letters, *(letter + "</w>" for letter in letters)]
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    names = list(dict.fromkeys([*symbols, *(first + second for first, second in pairs), "<|startoftext|>", "<|endoftext|>"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({name: index for index, name in enumerate(names)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in pairs), encoding="utf-8")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=token_limit)
