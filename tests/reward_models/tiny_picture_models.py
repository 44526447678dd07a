"""Picture models of random weights small enough for tests, saved as their releases are: CLIP, SigLIP, DINOv2, two heads, ImageReward.pt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORDS = ("a", "two", "three", "red", "blue", "green", "yellow", "circle", "squares", "star", "triangles", "left", "of", "white", "cross")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's generator at a seed, and afterwards as it was."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        yield


def spread(model: Any, deviation: float = 0.3) -> Any:
    """Weights wide enough for inputs to differ in their outputs."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, deviation)
        elif parameter.ndim == 1 and parameter.numel() > 1:
            parameter.add_(0.1 * parameter.new_empty(parameter.shape).normal_())
    return model.eval()


def word_tokenizer(ends: str, limit: int, **names: str) -> Any:
    """A tokenizer of WORDS; `ends` is the template of a text, such as "[CLS] $A [SEP]"."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys(names.values()))
    words = [*special, *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token=names["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=ends, pair=None, special_tokens=[(word, words.index(word)) for word in special if word in ends.split()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=limit, **names)


SMALL = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}


def save_clip(folder: Path) -> Path:
    """A CLIPModel of 32 x 32 pixels with its processor; prompts of at most 8 tokens, the last of which is the end."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    names = {"unk_token": "<unk>", "bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}
    word_tokenizer("<s> $A </s>", 8, **names).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    text = {**SMALL, "vocab_size": 4 + len(WORDS), "max_position_embeddings": 8, "bos_token_id": 1, "pad_token_id": 2, "eos_token_id": 3}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    with seeded(0):
        model = spread(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)))
        model.logit_scale.fill_(3.2)
    model.save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    """A SiglipModel of 32 x 32 pixels with its processor; prompts of 8 tokens, padded."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    names = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    word_tokenizer("$A </s>", 8, **names).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    text = {**SMALL, "vocab_size": 3 + len(WORDS), "max_position_embeddings": 8, "projection_size": 32}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    with seeded(1):
        model = spread(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)))
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-0.7)
    model.save_pretrained(folder)
    return folder


def save_siglip_2(folder: Path) -> Path:
    """A Siglip2Model of at most 16 patches of 8 x 8 pixels with its processor; prompts of 8 tokens, padded."""
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model

    names = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    word_tokenizer("$A </s>", 8, **names).save_pretrained(folder)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(folder)
    text = {**SMALL, "vocab_size": 3 + len(WORDS), "max_position_embeddings": 8, "projection_size": 32}
    with seeded(6):
        model = spread(Siglip2Model(Siglip2Config(text_config=text, vision_config={**SMALL, "num_patches": 16, "patch_size": 8})))
    model.save_pretrained(folder)
    return folder


def save_dino(folder: Path) -> Path:
    """A Dinov2Model of 28 x 28 pixels with its processor."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    small = {name: value for name, value in SMALL.items() if name != "intermediate_size"}
    with seeded(2):
        model = spread(Dinov2Model(Dinov2Config(**small, image_size=28, patch_size=7)))
    model.save_pretrained(folder)
    return folder


def head_tensors(width: int, seed: int) -> dict[str, Any]:
    """Tensors of the released names of the five layers that stand over an embedding."""
    import torch

    sizes = {0: (1024, width), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
    tensors = {}
    with seeded(seed):
        for place, (outputs, inputs) in sizes.items():
            tensors[f"layers.{place}.weight"] = torch.randn(outputs, inputs) * inputs**-0.5
            tensors[f"layers.{place}.bias"] = torch.randn(outputs) * 0.1
    return tensors


def save_aesthetic_head(path: Path, width: int = 24) -> Path:
    """A file as sac+logos+ava1-l14-linearMSE.pth is: the state dict and nothing else."""
    import torch

    torch.save(head_tensors(width, 3), path)
    return path


def save_image_reward(folder: Path) -> Path:
    """A file as ImageReward.pt is, and BERT's tokenizer beside it: towers 128 and 64 wide, two layers, pictures of 32 x 32 pixels."""
    import torch

    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    word_tokenizer("[CLS] $A [SEP]", 512, **names).save_pretrained(folder)
    with seeded(4):
        torch.save(image_reward_tensors(words=len(WORDS) + 6), folder / "ImageReward.pt")
    return folder


def image_reward_tensors(words: int, vision: int = 128, text: int = 64, inner: int = 96, patch: int = 8) -> dict[str, Any]:
    """What a checkpoint of ImageReward holds, by its names; [DEC] and [ENC] end the vocabulary."""
    import torch

    tensors: dict[str, Any] = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.randn(outputs, inputs) * inputs**-0.5, 0.1 * torch.randn(outputs)

    def norm(name: str, width: int) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = 1 + 0.1 * torch.randn(width), 0.1 * torch.randn(width)

    sight, speech = "blip.visual_encoder", "blip.text_encoder"
    tensors[f"{sight}.cls_token"], tensors[f"{sight}.pos_embed"] = torch.randn(1, 1, vision), torch.randn(1, 17, vision)
    tensors[f"{sight}.patch_embed.proj.weight"] = torch.randn(vision, 3, patch, patch) * 0.1
    tensors[f"{sight}.patch_embed.proj.bias"] = torch.randn(vision)
    norm(f"{sight}.norm", vision)
    for block in (f"{sight}.blocks.{place}" for place in range(2)):
        for name, outputs, inputs in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            linear(f"{block}.{name}", outputs * vision, inputs * vision)
        norm(f"{block}.norm1", vision)
        norm(f"{block}.norm2", vision)
    tensors[f"{speech}.embeddings.position_ids"] = torch.arange(64)[None]
    tensors[f"{speech}.embeddings.word_embeddings.weight"] = torch.randn(words, text)
    tensors[f"{speech}.embeddings.position_embeddings.weight"] = torch.randn(64, text)
    norm(f"{speech}.embeddings.LayerNorm", text)
    for layer in (f"{speech}.encoder.layer.{place}" for place in range(2)):
        for attention, seen in (("attention", text), ("crossattention", vision)):
            linear(f"{layer}.{attention}.self.query", text, text)
            linear(f"{layer}.{attention}.self.key", text, seen)
            linear(f"{layer}.{attention}.self.value", text, seen)
            linear(f"{layer}.{attention}.output.dense", text, text)
            norm(f"{layer}.{attention}.output.LayerNorm", text)
        linear(f"{layer}.intermediate.dense", inner, text)
        linear(f"{layer}.output.dense", text, inner)
        norm(f"{layer}.output.LayerNorm", text)
    linear("blip.vision_proj", 16, vision)
    linear("blip.text_proj", 16, text)
    return {**tensors, **{f"mlp.{name}": tensor for name, tensor in head_tensors(text, 5).items()}}
