"""ImageReward: how much people like a picture for a prompt, by BLIP's text encoder looking at the picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from diffalign.data.modalities import Media
from reward_models.clip_transform import clip_pixels
from reward_models.contract import check_call
from reward_models.linear_head import linear_head
from reward_models.pretrained import checked_batch, chunks, from_pretrained, settings_digest, torch_device
from reward_models.weights import file_digest, fill, tensors_of, weights_file

if TYPE_CHECKING:
    from torch import Tensor

    from diffalign.data.modalities.image import Image

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw reward, as released
DOWNLOAD = "hf download THUDM/ImageReward ImageReward.pt"
TOKENS = 35
HEAD_WIDTH = 64  # of one attention head in ViT-L and BERT alike: the file says all other sizes
PRECISIONS = ("float32", "bfloat16", "float16")
VISION, TEXT, HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp."
RENAMED = (  # the release's names of the vision tower, and those of transformers
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"^norm\.", "post_layernorm."),
)


class ImageReward:
    """(r − 0.1672) / 1.0333 of the raw reward r, about −2 to 2: Xu et al. 2023, arXiv:2304.05977. For evaluation rather than training.

    BLIP's text encoder reads the prompt, cut at and padded to 35 tokens, with cross-attention to the picture (shorter side to 224,
    bicubic, its centre); five linear layers over the state of its first token, [CLS], give r. The release does not put BLIP's [ENC] there.

    checkpoint  the released ImageReward.pt, or its tensors as .safetensors; sizes are read from it
    tokenizer   a hub id or folder of BERT's uncased tokenizer; the two tokens that BLIP adds to it are in no prompt
    dtype       of BLIP's weights; the head is float32
    device, batch   "auto" is CUDA where there is one; pictures per forward
    """

    name = "image_reward"
    modalities = frozenset({"image"})
    dimensions = ("score",)
    groupwise = False

    def __init__(
        self, checkpoint: str, *, tokenizer: str = "google-bert/bert-base-uncased", device: str = "auto", dtype: str = "float32",
        batch: int = 16,
    ) -> None:  # fmt: skip
        import torch
        from transformers import AutoTokenizer

        if dtype not in PRECISIONS:
            raise ValueError(f"image_reward got dtype = {dtype!r}; choose one of: {', '.join(PRECISIONS)}")
        self.batch, self.device = checked_batch(self.name, batch), torch_device(self.name, device)
        path = weights_file(self.name, checkpoint, DOWNLOAD)
        tensors = tensors_of(self.name, path)
        parts = {prefix: under(tensors, prefix) for prefix in (VISION, TEXT, HEAD)}
        try:
            self.vision, self.text = vision_tower(parts[VISION]), text_tower(parts[TEXT])
        except KeyError as error:
            raise ValueError(
                f"image_reward got checkpoint {path}, which lacks {error}; give the ImageReward.pt that was released"
            ) from error
        head = linear_head(self.text.config.hidden_size)
        for module, prefix in ((self.vision, VISION), (self.text, TEXT), (head, HEAD)):
            fill(self.name, module, parts[prefix], path)
        for tower in (self.vision, self.text):
            tower.to(self.device, getattr(torch, dtype)).eval()
        self.layers = head["layers"].to(self.device)
        self.tokenizer = from_pretrained(self.name, AutoTokenizer, tokenizer, None)
        self.revision = "/".join([path.stem, file_digest(path), settings_digest(self.tokenizer.get_vocab()), dtype])

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """{"score": one float per picture}."""
        import torch

        check_call(self, prompts, media)
        pairs = chunks(list(zip(prompts, cast("Sequence[Image]", media), strict=True)), self.batch)
        with torch.inference_mode():
            raw = [value for chunk in pairs for value in self._raw([prompt for prompt, _ in chunk], [image for _, image in chunk]).tolist()]
        return {"score": [(value - MEAN) / STD for value in raw]}

    def _raw(self, prompts: list[str], images: list[Image]) -> Tensor:
        """(N,) rewards as the head gives them."""
        pixels = clip_pixels(images, self.vision.config.image_size).to(self.device, self.vision.dtype)
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").to(self.device)
        states = self.text(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            encoder_hidden_states=self.vision(pixel_values=pixels).last_hidden_state,
        ).last_hidden_state
        return self.layers(states[:, 0].float()).squeeze(1)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of one part by the names that transformers has for them. BLIP's projections, which no score reads, are in none."""
    part = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    part.pop("embeddings.position_ids", None)  # 0, 1, 2, …
    for old, new in RENAMED if prefix == VISION else ():
        part = {re.sub(old, new, name): tensor for name, tensor in part.items()}
    return part


def vision_tower(part: Mapping[str, Tensor]) -> Any:
    """A vision tower of the sizes of its tensors; KeyError where one that says a size is not there."""
    from transformers import BlipVisionConfig, BlipVisionModel

    kernel, positions = part["embeddings.patch_embedding.weight"], part["embeddings.position_embedding"]
    width, patch = kernel.shape[0], kernel.shape[-1]
    return BlipVisionModel(
        BlipVisionConfig(
            hidden_size=width,
            intermediate_size=part["encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=layers(part, r"encoder\.layers\.(\d+)\."),
            num_attention_heads=width // HEAD_WIDTH,
            image_size=patch * round((positions.shape[1] - 1) ** 0.5),
            patch_size=patch,
            layer_norm_eps=1e-6,  # the release's; 1e-5 in transformers
        )
    )


def text_tower(part: Mapping[str, Tensor]) -> Any:
    """A text encoder with cross-attention in every layer, of the sizes of its tensors; KeyError where one that says a size is not there."""
    from transformers import BlipTextConfig, BlipTextModel

    words, width = part["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=part["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=part["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=layers(part, r"encoder\.layer\.(\d+)\."),
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=part["embeddings.position_embeddings.weight"].shape[0],
        is_decoder=True,  # which is how transformers asks for cross-attention; the mask stays that of an encoder
    )
    return BlipTextModel(config, add_pooling_layer=False)


def layers(part: Mapping[str, Tensor], pattern: str) -> int:
    """How many layers the names have."""
    return len({match[1] for name in part if (match := re.match(pattern, name))})
