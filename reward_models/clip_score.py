"""CLIP score: how well a picture agrees with its prompt, by any open_clip model with weights on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from diffalign.data.modalities import Media
from reward_models.contract import check_call
from reward_models.pretrained import chunks, torch_device

if TYPE_CHECKING:
    from torch import Tensor

    from diffalign.data.modalities.image import Image

FORMULAS = {
    "percent": 100.0,  # 100·max(0, cos): TorchMetrics and most tables of papers
    "hessel": 2.5,  # 2.5·max(0, cos): Hessel et al. 2021, eq. 1, who put "A photo depicts " before every caption (setting `prefix`)
}
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


class ClipScore:
    """100·max(0, cos(image, text)) by default: Hessel et al. 2021, arXiv:2104.08718. Prompts are cut at the encoder's 77 tokens.

    architecture  an open_clip name ("ViT-B-32", "ViT-L-14-quickgelu" for OpenAI's weights), or a folder with open_clip_config.json
    checkpoint    a local .safetensors file, or .pt, .pth, .bin that holds tensors only; "random": random weights, for tests of the plumbing
    formula       a name of FORMULAS. Scores of two formulas, or of two checkpoints, do not compare
    prefix        put before every prompt
    tag           the open_clip pretrained tag that the checkpoint is, for its image transform; needed where an
                  architecture's published weights differ in theirs
    dtype         of the weights; the cosine is formed in float32
    device        "auto" (CUDA where there is one), or as torch names them
    batch         pictures per forward
    seed          of the random weights
    """

    name = "clip_score"
    modalities = frozenset({"image"})
    dimensions = ("score",)
    groupwise = False

    def __init__(
        self,
        checkpoint: str,
        architecture: str = "ViT-B-32",
        *,
        formula: str = "percent",
        prefix: str = "",
        tag: str | None = None,
        dtype: str = "float32",
        device: str = "auto",
        batch: int = 32,
        seed: int = 0,
    ) -> None:
        import open_clip
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2

        if formula not in FORMULAS:
            raise ValueError(f"clip_score got formula = {formula!r}; choose one of: {', '.join(FORMULAS)}")
        if dtype not in PRECISIONS:
            raise ValueError(f"clip_score got dtype = {dtype!r}; choose one of: {', '.join(PRECISIONS)}")
        if batch < 1:
            raise ValueError(f"clip_score got batch = {batch!r}; give a whole number of at least 1")
        weights = None if checkpoint == "random" else weights_file(checkpoint)
        source = model_source(architecture)
        self.device = torch_device(self.name, device)
        self.factor, self.prefix, self.batch = FORMULAS[formula], prefix, batch
        with torch.random.fork_rng(devices=[]), without_random_weights_warning():
            torch.manual_seed(seed)
            self.model = open_clip.create_model(
                source,
                load_weights=False,
                pretrained_text=False,
                precision=PRECISIONS[dtype],
                force_preprocess_cfg=published_transform(source, tag),
            )
        if weights is not None:
            load_weights(self.model, weights, architecture)
        self.model.to(self.device).eval()
        digests = [f"seed-{seed}" if weights is None else file_digest(weights), resolved_digest(source, self.model.visual.preprocess_cfg)]
        self.revision = "/".join([Path(architecture).name, *digests, formula, dtype, *([prefix] if prefix else [])])
        self.input_dtype = open_clip.get_input_dtype(PRECISIONS[dtype])
        self.transform: Any = image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False)
        self.tokenizer = open_clip.get_tokenizer(source)

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """{"score": one float per picture}. A prompt that several pictures share is encoded once."""
        import torch

        check_call(self, prompts, media)
        if not media:
            return {"score": []}
        row = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
        with torch.inference_mode():
            texts = torch.cat([self.embed_texts(chunk) for chunk in chunks(list(row), self.batch)])
            images = torch.cat([self.embed_images(chunk) for chunk in chunks(cast("Sequence[Image]", media), self.batch)])
            cosine = (images * texts[[row[prompt] for prompt in prompts]]).sum(1)
            return {"score": (self.factor * cosine.clamp(min=0)).tolist()}

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit text embeddings, (N, D) float32."""
        from torch.nn.functional import normalize

        tokens = self.tokenizer([self.prefix + prompt for prompt in prompts]).to(self.device)
        return normalize(self.model.encode_text(tokens).float(), dim=1)

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """Unit image embeddings, (N, D) float32, of pictures under the model's own evaluation transform."""
        import torch
        from PIL import Image as PillowImage
        from torch.nn.functional import normalize

        pixels = torch.stack([self.transform(PillowImage.fromarray(image.pixels())) for image in images])
        return normalize(self.model.encode_image(pixels.to(self.device, self.input_dtype)).float(), dim=1)


def model_source(architecture: str) -> str:
    """What open_clip.create_model takes for an architecture: a built-in name, or local-dir:FOLDER. ValueError on anything else."""
    import open_clip

    from diffalign.did_you_mean import did_you_mean

    if (Path(architecture) / "open_clip_config.json").is_file():
        return f"local-dir:{architecture}"
    known = open_clip.list_models()
    if architecture not in known:
        raise ValueError(
            f"clip_score got architecture = {architecture!r}{did_you_mean(architecture, known)}; give one of open_clip.list_models(), "
            "such as ViT-B-32, or a folder that holds open_clip_config.json"
        )
    return architecture


def weights_file(checkpoint: str) -> Path:
    """The checkpoint as a path; FileNotFoundError or ValueError says how to get one."""
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(
            f"clip_score got checkpoint = {checkpoint!r}, which is no file; download one first, such as "
            "`hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K open_clip_model.safetensors`, and give its path (or 'random', for tests)"
        )
    if path.suffix not in SUFFIXES:
        raise ValueError(f"clip_score got checkpoint = {checkpoint!r}; a checkpoint ends in one of: {', '.join(SUFFIXES)}")
    return path


def published_transform(source: str, tag: str | None) -> dict[str, Any]:
    """Mean, std, interpolation and resizing under which a model's weights were published: of its tag, or of all its tags where they agree.

    A wrong mean shifts every score and no error says so, hence ValueError where the tags differ and none is given. A folder brings its own.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    from diffalign.did_you_mean import did_you_mean

    if source.startswith("local-dir:"):
        if tag is not None:
            raise ValueError(f"clip_score got tag = {tag!r} with a folder, whose open_clip_config.json holds the transform; leave tag out")
        return {}
    tags = list_pretrained_tags_by_model(source)
    if tag is not None and tag not in tags:
        raise ValueError(f"clip_score got tag = {tag!r}{did_you_mean(tag, tags)}; the tags of {source}: {', '.join(tags) or 'none'}")
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


def file_digest(path: Path) -> str:
    """The first 12 hex digits of the file's sha256."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]


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
