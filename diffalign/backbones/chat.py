"""What the families share whose text encoder is a language model of chats."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any


def chat_token_count(tokenizer: Any, prompt: str, *, thinks: bool) -> int:
    """Tokens of a prompt with the chat's template around it; thinks: as the pipeline asks the template."""
    told = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=thinks
    )
    return len(tokenizer(told).input_ids)


def check_torchvision(source: str) -> None:
    """ValueError where it is missing: without it transformers has no processor of text and pictures, and names something else."""
    if find_spec("torchvision") is None:
        raise ValueError(f"{source} reads text with a processor of pictures too, which needs torchvision: pip install 'diffalign[clip]'")
