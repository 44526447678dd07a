"""A LLaVA of random weights with its processor, small enough for tests."""

from __future__ import annotations

from pathlib import Path

ALWAYS = '{"better": "first"}'
WORDS = [ALWAYS, "<pad>", "<s>", "</s>", "<unk>", "<image>", *(f"word{place}" for place in range(26))]
TEMPLATE = (
    "<s>{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %} <image> {% else %} {{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
)


def save_llava(folder: Path) -> Path:
    """Pictures of 8 x 8 pixels, four tokens and a class token each; WORDS as its vocabulary."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    pictures = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    LlavaProcessor(
        pictures, fast, patch_size=4, vision_feature_select_strategy="full", num_additional_image_tokens=1, chat_template=TEMPLATE
    ).save_pretrained(folder)
    sight = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2, "image_size": 8, "patch_size": 4, "projection_dim": 16}  # fmt: skip
    speech = {"model_type": "llama", "vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 1, "bos_token_id": 2,
              "eos_token_id": 3}  # fmt: skip
    config = LlavaConfig(vision_config=sight, text_config=speech, image_token_index=5, vision_feature_select_strategy="full")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5)
    model.save_pretrained(folder)
    return folder
