"""What the families share whose text encoder is a language model of chats."""

from __future__ import annotations

from typing import Any


def chat_token_count(tokenizer: Any, prompt: str, *, thinks: bool) -> int:
    """Tokens of a prompt with the chat's template around it; thinks: as the pipeline asks the template."""
    told = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=thinks
    )
    return len(tokenizer(told).input_ids)
