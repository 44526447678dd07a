"""A Qwen2-VL of random weights with its processor, small enough for tests, and files as HPSv3 and VideoReward are released."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
WORDS = ["<unk>", *CONTROLS, "a", "red", "blue", "circle", "square", "two", "rises", "falls", "the", "video", "image", "and", "of", "END"]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_base(folder: Path, own: int) -> Any:
    """Config and processor of a base, and the model that a release makes of it: `own` tokens more than words."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2TokenizerFast,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    # transformers 4 asks for its own class, and that of 5 makes its words itself.
    kind = PreTrainedTokenizerFast if int(transformers.__version__.split(".")[0]) > 4 else Qwen2TokenizerFast
    fast = kind(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>", unk_token="<unk>")
    fast.add_tokens(CONTROLS, special_tokens=True)
    Qwen2VLProcessor(Qwen2VLImageProcessor(), fast, Qwen2VLVideoProcessor(), chat_template=TEMPLATE).save_pretrained(folder)
    speech = {"vocab_size": len(WORDS) + 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}, "bos_token_id": 0,
              "eos_token_id": 0, "max_position_embeddings": 4096}  # fmt: skip
    sight = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1}
    ids = {"image_token_id": WORDS.index("<|image_pad|>"), "video_token_id": WORDS.index("<|video_pad|>"),
           "vision_start_token_id": WORDS.index("<|vision_start|>"), "vision_end_token_id": WORDS.index("<|vision_end|>")}  # fmt: skip
    config = Qwen2VLConfig(text_config=speech, vision_config=sight, **ids)
    config.save_pretrained(folder)
    config.text_config.vocab_size = len(WORDS) + own
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = Qwen2VLForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model.eval()


def released(names: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tensors by the names of transformers 4.45, which the releases have."""
    return {
        prefix + re.sub(r"^model\.language_model\.", "model.", re.sub(r"^model\.visual\.", "visual.", name)): tensor.contiguous().clone()
        for name, tensor in names.items()
    }


def save_hps_v3(folder: Path) -> tuple[Any, Any]:
    """folder/base and folder/HPSv3.safetensors; the model and the head."""
    import torch
    from safetensors.torch import save_file

    from reward_models.hps_v3 import ranked_head

    model = save_base(folder / "base", 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = ranked_head(32).eval()
    save_file(
        released(model.state_dict()) | {f"rm_head.{name}": tensor for name, tensor in head.state_dict().items()},
        folder / "HPSv3.safetensors",
    )
    return model, head


def save_video_reward(folder: Path) -> tuple[Any, Any]:
    """folder/base and folder/model.pth with a LoRA that is not folded in; the model with it, as peft runs it, and the head."""
    import torch
    from peft import LoraConfig, get_peft_model

    from reward_models.video_reward import linear

    model = save_base(folder / "base", 3)
    targets = [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear) and "language_model" in name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, at what peft asks it
            wrapped = get_peft_model(model, LoraConfig(r=64, lora_alpha=128, target_modules=targets))
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.05)
        head = linear(32).eval()
    names = {name.removeprefix("base_model.model."): tensor for name, tensor in wrapped.state_dict().items()}
    torch.save(released(names | {"rm_head.weight": head.weight.data}, "base_model.model."), folder / "model.pth")
    return wrapped.base_model.model.eval(), head
