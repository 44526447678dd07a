"""Encoders of transformers as rewards use them: pictures, and prompts beside them, become unit embeddings in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_models.pretrained import (
    checked_batch,
    checked_dtype,
    chunks,
    from_pretrained,
    pillow_processor,
    pretrained_model,
    settings_digest,
    torch_device,
    unit_embeddings,
    weights_digest,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from diffalign.data.modalities.image import Image

Preprocess = Callable[[Sequence["Image"]], dict[str, "Tensor"]]  # pictures → what the model takes


class PictureEncoder:
    """A model of transformers that embeds pictures.

    reward      whose model this is, for messages
    kind        the class of the model
    embed       of the model and its inputs, the embeddings (N, D), bare or as `pooler_output`
    preprocess  of the model, what turns pictures into its inputs, and the settings of that for the revision
    digests     folder or repository, weights and configs, for the reward's revision
    """

    def __init__(
        self, reward: str, kind: Any, checkpoint: str, *, embed: Callable[[Any, dict[str, Tensor]], Any],
        preprocess: Callable[[Any], tuple[Preprocess, Any]], revision: str | None, device: str, dtype: str, batch: int,
    ) -> None:  # fmt: skip
        self.batch = checked_batch(reward, batch)
        self.device = torch_device(reward, device)
        self.model = pretrained_model(reward, kind, checkpoint, revision, checked_dtype(reward, dtype))
        self.preprocess, settings = preprocess(self.model)
        self.embed = embed
        config = settings_digest(self.model.config.to_diff_dict(), settings)
        self.digests = [Path(checkpoint).name, weights_digest(self.model), config]
        self.model.to(self.device)

    def embeddings(self, images: Sequence[Image]) -> Tensor:
        """(N, D) float32 on the device, each of length 1, of N ≥ 1 pictures."""
        import torch

        with torch.inference_mode():
            return torch.cat([self._embeddings(chunk) for chunk in chunks(images, self.batch)])

    def _embeddings(self, images: Sequence[Image]) -> Tensor:
        inputs = {name: moved(values, self.device, self.model.dtype) for name, values in self.preprocess(images).items()}
        return unit_embeddings(self.embed(self.model, inputs))


class PictureTextEncoder:
    """A model of two towers (CLIP, SigLIP) with its processor: cosines of pictures and prompts.

    processor  where image processor and tokenizer come from, where not from the checkpoint
    padding    of prompts: "longest", or "max_length" where the text tower sees the padding
    prepare    of a prompt, before it is cut into tokens
    """

    def __init__(
        self, reward: str, checkpoint: str, *, processor: str | None = None, padding: str = "longest",
        prepare: Callable[[str], str] = str, revision: str | None = None, device: str = "auto", dtype: str = "float32", batch: int = 16,
    ) -> None:  # fmt: skip
        from transformers import AutoModel, AutoTokenizer

        source, source_revision = (checkpoint, revision) if processor is None else (processor, None)
        self.pictures = PictureEncoder(
            reward, AutoModel, checkpoint, embed=lambda model, inputs: model.get_image_features(**inputs),
            preprocess=lambda model: with_processor(pillow_processor(reward, source, source_revision)),
            revision=revision, device=device, dtype=dtype, batch=batch,
        )  # fmt: skip
        self.model, self.padding, self.prepare = self.pictures.model, padding, prepare
        self.tokenizer = from_pretrained(reward, AutoTokenizer, source, source_revision)
        self.token_limit = int(self.model.config.text_config.max_position_embeddings)
        self.digests = [*self.pictures.digests, settings_digest(self.tokenizer.get_vocab())]

    def cosines(self, prompts: Sequence[str], images: Sequence[Image]) -> Tensor:
        """(N,) float32 of N ≥ 1 prompts and pictures. A prompt that several pictures share is encoded once."""
        import torch

        row = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
        with torch.inference_mode():
            texts = torch.cat([self.embed_texts(chunk) for chunk in chunks(list(row), self.pictures.batch)])
            return (self.pictures.embeddings(images) * texts[[row[prompt] for prompt in prompts]]).sum(1)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit text embeddings, (N, D) float32; prompts are cut at the text tower's limit."""
        tokens = self.tokenizer(
            [self.prepare(prompt) for prompt in prompts], padding=self.padding, truncation=True, max_length=self.token_limit,
            return_tensors="pt",
        ).to(self.pictures.device)  # fmt: skip
        # Where prompts are padded to the limit the tower was trained without a mask.
        mask = None if self.padding == "max_length" else tokens["attention_mask"]
        return unit_embeddings(self.model.get_text_features(input_ids=tokens["input_ids"], attention_mask=mask))


def with_processor(processor: Any) -> tuple[Preprocess, Any]:
    """An image processor of transformers as PictureEncoder takes it."""
    from PIL import Image as PillowImage

    def preprocess(images: Sequence[Image]) -> dict[str, Tensor]:
        return dict(processor([PillowImage.fromarray(image.pixels()) for image in images], return_tensors="pt"))

    return preprocess, processor.to_dict()


def moved(values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """On the device; fractions in the model's dtype, whole numbers as they are."""
    return values.to(device, dtype) if values.is_floating_point() else values.to(device)
