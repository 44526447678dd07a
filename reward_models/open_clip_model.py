"""An open_clip model with its evaluation transform as rewards load it: weights from a local file, all keys matched."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_models.pretrained import checked_batch, chunks, torch_device
from reward_models.weights import file_digest, weights_file

if TYPE_CHECKING:
    from torch import Tensor

    from diffalign.data.modalities.image import Image

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class OpenClip:
    """Unit embeddings of pictures and prompts, and their cosines.

    reward        whose model this is, for messages
    checkpoint    a local .safetensors file, or .pt, .pth, .bin that holds tensors only; "random": random weights, for tests of the plumbing
    architecture  an open_clip name, or a folder with open_clip_config.json
    download      where a checkpoint comes from, for the message that there is none
    tag           the open_clip pretrained tag of the checkpoint, for its image transform
    transform     what replaces settings of that transform (mean, std, interpolation, resize_mode)
    digests       of weights and config, for the reward's revision
    """

    def __init__(
        self, reward: str, checkpoint: str, architecture: str, *, download: str, tag: str | None = None,
        transform: dict[str, Any] | None = None, dtype: str = "float32", device: str = "auto", batch: int = 32, seed: int = 0,
    ) -> None:  # fmt: skip
        import open_clip
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2

        if dtype not in PRECISIONS:
            raise ValueError(f"{reward} got dtype = {dtype!r}; choose one of: {', '.join(PRECISIONS)}")
        self.batch = checked_batch(reward, batch)
        weights = None if checkpoint == "random" else weights_file(reward, checkpoint, download)
        source = model_source(reward, architecture)
        self.device = torch_device(reward, device)
        with torch.random.fork_rng(devices=[]), without_random_weights_warning():
            torch.manual_seed(seed)
            self.model = open_clip.create_model(
                source,
                load_weights=False,
                pretrained_text=False,
                precision=PRECISIONS[dtype],
                force_preprocess_cfg={**published_transform(source, tag, reward), **(transform or {})},
            )
        if weights is not None:
            load_weights(self.model, weights, architecture)
        self.model.to(self.device).eval()
        weights_name = f"seed-{seed}" if weights is None else file_digest(weights)
        self.digests = [weights_name, resolved_digest(source, self.model.visual.preprocess_cfg)]
        self.input_dtype = open_clip.get_input_dtype(PRECISIONS[dtype])
        self.transform: Any = image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False)
        self.tokenizer = open_clip.get_tokenizer(source)

    def cosines(self, prompts: Sequence[str], images: Sequence[Image]) -> Tensor:
        """(N,) float32 of N ≥ 1 prompts and pictures. A prompt that several pictures share is encoded once."""
        import torch

        row = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
        with torch.inference_mode():
            texts = torch.cat([self.embed_texts(chunk) for chunk in chunks(list(row), self.batch)])
            pictures = torch.cat([self.embed_images(chunk) for chunk in chunks(images, self.batch)])
            return (pictures * texts[[row[prompt] for prompt in prompts]]).sum(1)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit text embeddings, (N, D) float32."""
        from torch.nn.functional import normalize

        tokens = self.tokenizer(list(prompts)).to(self.device)
        return normalize(self.model.encode_text(tokens).float(), dim=1)

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """Unit image embeddings, (N, D) float32, of pictures under the model's own evaluation transform."""
        import torch
        from PIL import Image as PillowImage
        from torch.nn.functional import normalize

        pixels = torch.stack([self.transform(PillowImage.fromarray(image.pixels())) for image in images])
        return normalize(self.model.encode_image(pixels.to(self.device, self.input_dtype)).float(), dim=1)


def model_source(reward: str, architecture: str) -> str:
    """What open_clip.create_model takes for an architecture: a built-in name, or local-dir:FOLDER. ValueError on anything else."""
    import open_clip

    from diffalign.did_you_mean import did_you_mean

    if (Path(architecture) / "open_clip_config.json").is_file():
        return f"local-dir:{architecture}"
    known = open_clip.list_models()
    if architecture not in known:
        raise ValueError(
            f"{reward} got architecture = {architecture!r}{did_you_mean(architecture, known)}; give one of open_clip.list_models(), "
            "such as ViT-B-32, or a folder that holds open_clip_config.json"
        )
    return architecture


def published_transform(source: str, tag: str | None, reward: str = "clip_score") -> dict[str, Any]:
    """Mean, std, interpolation and resizing under which a model's weights were published: of its tag, or of all its tags where they agree.

    A wrong mean shifts every score and no error says so, hence ValueError where the tags differ and none is given. A folder brings its own.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    from diffalign.did_you_mean import did_you_mean

    if source.startswith("local-dir:"):
        if tag is not None:
            raise ValueError(f"{reward} got tag = {tag!r} with a folder, whose open_clip_config.json holds the transform; leave tag out")
        return {}
    tags = list_pretrained_tags_by_model(source)
    if tag is not None and tag not in tags:
        raise ValueError(f"{reward} got tag = {tag!r}{did_you_mean(tag, tags)}; the tags of {source}: {', '.join(tags) or 'none'}")
    keys = ("mean", "std", "interpolation", "resize_mode")
    published = [get_pretrained_cfg(source, one) for one in ([tag] if tag else tags)]
    transforms = [{key: cfg[key] for key in keys if cfg.get(key) is not None} for cfg in published]
    if any(transform != transforms[0] for transform in transforms):
        raise ValueError(f"the published weights of {source} differ in image transform; say with tag which yours are: {', '.join(tags)}")
    return transforms[0] if transforms else {}


def load_weights(model: Any, path: Path, architecture: str) -> None:
    """Tensors of a checkpoint into the model, all keys matched; never runs code from the file. ValueError says what did not fit."""
    import open_clip

    try:
        open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except Exception as error:  # each format and torch release has its own; the chain keeps it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"checkpoint {path} does not load as {architecture} ({reason}); it must be a state dict of tensors "
            "alone (nothing else is opened) of that architecture"
        ) from error


def resolved_digest(source: str, transform: dict[str, Any]) -> str:
    """The first 12 hex digits of the sha256 of the model's config and its image transform: a folder's name says neither, nor does a tag."""
    import open_clip

    if source.startswith("local-dir:"):
        file = Path(source.removeprefix("local-dir:")) / "open_clip_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
    else:
        config = open_clip.get_model_config(source)
    return sha256(json.dumps([config, transform], sort_keys=True).encode()).hexdigest()[:12]


@contextmanager
def without_random_weights_warning() -> Iterator[None]:
    """Drops open_clip's words on missing weights from the root logger: they come next, or were asked to be random."""

    def keep(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in ("No pretrained weights loaded", "no CLIP weights found"))

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
