"""Stable Diffusion 1.x and 2.x, and the bundled miniature: latent UNet with CLIP text conditioning, ε or v prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor, nn

from diffalign.backbones import dtype_argument, quiet_loading
from diffalign.backbones.random_weights import random_pipeline
from diffalign.model_source import source_path

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
}


class StableDiffusion:
    """A loaded pipeline: see `Backbone` for the contract."""

    modality = "image"

    def __init__(self, pipeline: StableDiffusionPipeline, source: str):
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline, self.source = pipeline, source
        self.denoiser: nn.Module = pipeline.unet
        for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            module.requires_grad_(False).eval()
        training = DDIMScheduler.from_config(pipeline.scheduler.config)
        self.prediction_type = training.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"{source}: scheduler has prediction_type {self.prediction_type!r}; Stable Diffusion predicts 'epsilon' or 'v_prediction'"
            )
        self.timestep_count: int = training.config.num_train_timesteps
        self.alphas_cumprod = training.alphas_cumprod.to(torch.float64)
        self.token_limit: int = pipeline.tokenizer.model_max_length

    @property
    def size(self) -> tuple[int, int]:
        side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        return side, side

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def token_count(self, prompt: str) -> int:
        return len(self.pipeline.tokenizer(prompt).input_ids)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D)}."""
        embeds, _ = self.pipeline.encode_prompt(prompts, self.device, num_images_per_prompt=1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds}

    @torch.no_grad()
    def encode(self, media: Tensor, *, seeds: list[int] | None) -> Tensor:
        vae = self.pipeline.vae
        posterior = vae.encode(media.to(vae.device, vae.dtype)).latent_dist
        if seeds is None:
            return posterior.mean * vae.config.scaling_factor
        noise = torch.stack([torch.randn(posterior.mean.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        return (posterior.mean + posterior.std * noise.to(posterior.mean)) * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        return vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample.clamp(-1, 1)

    def timestep(self, uniform: Tensor) -> Tensor:
        return (uniform * self.timestep_count).long().clamp_max(self.timestep_count - 1)

    clean_timestep = -1

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        index = timestep.cpu().long()
        cumulative = torch.where(index < 0, 1.0, self.alphas_cumprod[index.clamp(min=0)]).to(timestep.device)
        return cumulative.sqrt(), (1 - cumulative).sqrt()

    def _alpha_sigma(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = (level.view(-1, *[1] * (like.ndim - 1)).to(like) for level in self.levels(timestep))
        return alpha, sigma

    def last_layer(self, denoiser: nn.Module) -> nn.Module:
        return denoiser.get_submodule("conv_out")

    def epsilon(self, prediction: Tensor, noised: Tensor, timestep: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return prediction
        alpha, sigma = self._alpha_sigma(timestep, noised)
        return alpha * prediction + sigma * noised

    def signal_to_noise(self, timestep: Tensor) -> Tensor:
        cumulative = self.alphas_cumprod[timestep.cpu()]
        return (cumulative / (1 - cumulative)).to(timestep.device)

    def noise(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = self._alpha_sigma(timestep, latents)
        return alpha * latents + sigma * epsilon

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return epsilon
        alpha, sigma = self._alpha_sigma(timestep, latents)
        return alpha * epsilon - sigma * latents

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        return denoiser(noised, timestep, encoder_hidden_states=embeds["prompt_embeds"], return_dict=False)[0]

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None) -> np.ndarray:  # fmt: skip
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds; give one seed per prompt")
        if scheduler is not None and scheduler not in SCHEDULERS:
            raise ValueError(f"unknown scheduler {scheduler!r}; choose one of: {', '.join(SCHEDULERS)}")
        height, width = size or self.size
        own = self.pipeline.scheduler
        if scheduler is not None:
            import diffusers

            # Stable Diffusion's PNDM starts without Runge-Kutta steps; another scheduler's config does not say so.
            options = {"skip_prk_steps": True} if scheduler == "pndm" else {}
            self.pipeline.scheduler = getattr(diffusers, SCHEDULERS[scheduler]).from_config(own.config, **options)
        try:
            images = self.pipeline(
                prompts, negative_prompt=[negative_prompt] * len(prompts), height=height, width=width, num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds], output_type="np",
            ).images  # fmt: skip
        finally:
            self.pipeline.scheduler = own
        return np.rint(images * 255).astype(np.uint8)

    def save(self, folder: Path) -> None:
        self.pipeline.save_pretrained(folder)

    def save_trained(self, folder: Path) -> None:
        if not any("lora_" in name for name, _ in self.denoiser.named_parameters()):
            self.denoiser.save_pretrained(folder / "unet")
            return
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft.utils import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.denoiser)
        [config] = self.denoiser.peft_config.values()  # type: ignore[union-attr]  # set by add_adapter
        # Readers take α = rank where the file does not say otherwise, and few read what diffusers could say: the scale α/rank goes into B.
        state = {name: value * (config.lora_alpha / config.r) if ".lora_B." in name else value for name, value in state.items()}
        layers = convert_state_dict_to_diffusers(state)
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)

    def identity(self) -> str:
        return _weights_hash({name: tensor for name, tensor in self.denoiser.state_dict().items() if "lora_" not in name})

    def encoder_identity(self) -> str:
        parts = {"vae": self.pipeline.vae, "text_encoder": self.pipeline.text_encoder}
        tensors = {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}
        return f"{str(self.pipeline.vae.dtype).removeprefix('torch.')}:{_weights_hash(tensors)}"


def _weights_hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted((name.replace(".base_layer", ""), tensor) for name, tensor in tensors.items()):
        # Integer sums over the bits, plain and by place: exact, so the same on every device and with any number of threads.
        bits = tensor.detach().float().flatten().view(torch.int32).to(torch.int64)
        place = torch.arange(1, len(bits) + 1, device=bits.device)
        digest.update(f"{name} {tuple(tensor.shape)} {int(bits.sum())} {int((bits * place).sum())}".encode())
    return digest.hexdigest()[:16]


def load(source: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", revision: str | None = None,
         adapter: str | Path | Sequence[str | Path] | None = None, denoiser: str | Path | None = None) -> StableDiffusion:  # fmt: skip
    """See `load_backbone`. The safety checker is not loaded: training and scoring need every sample as it is."""
    if source.endswith(".ckpt"):
        raise ValueError(f"{source}: .ckpt files are pickles and are not opened; convert to .safetensors first")
    quiet_loading()
    if source.startswith("random:"):
        pipeline = random_pipeline(source.removeprefix("random:"), dtype)
    else:
        pipeline = _read(source, dtype, revision)
    if denoiser is not None:
        _replace_denoiser(pipeline, Path(denoiser), dtype)
    for place in [adapter] if isinstance(adapter, str | Path) else adapter or ():
        _fuse(pipeline, str(place), source)
    return StableDiffusion(pipeline.to(device), source)


def _read(source: str, dtype: torch.dtype, revision: str | None) -> StableDiffusionPipeline:
    path = str(source_path(source) or source)
    options = dict(safety_checker=None, requires_safety_checker=False, **dtype_argument(dtype))
    try:
        if path.endswith(".safetensors"):
            # A single file holds weights alone. Where it lies in a diffusers folder, the configs there are its own; else the hub has them.
            beside = {"config": str(Path(path).parent)} if (Path(path).parent / "model_index.json").is_file() else {}
            return StableDiffusionPipeline.from_single_file(path, **beside, **options)
        return StableDiffusionPipeline.from_pretrained(path, revision=revision, use_safetensors=True, **options)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # diffusers raises whatever it stumbles over in a damaged file, or in one of another kind
        raise (FileNotFoundError if isinstance(error, OSError) else ValueError)(
            f"model source {source!r} could not be loaded: {' '.join(str(error).split())[:300]}; give a diffusers folder "
            f"with safetensors weights (model_index.json in it), a .safetensors file of a whole Stable Diffusion (in such a folder where "
            f"there is no network), or a hub id that can be reached; fetch damaged files again"
        ) from error


def _replace_denoiser(pipeline: StableDiffusionPipeline, folder: Path, dtype: torch.dtype) -> None:
    inner = folder / "unet" if (folder / "unet").is_dir() else folder
    if not (inner / "config.json").is_file():
        raise FileNotFoundError(
            f"denoiser {str(folder)!r} holds no unet/config.json; give a folder that full fine-tuning wrote (RUN/train/final)"
        )
    unet = UNet2DConditionModel.from_pretrained(inner, use_safetensors=True, **dtype_argument(dtype))
    for name in ("in_channels", "out_channels", "cross_attention_dim"):
        if unet.config[name] != pipeline.unet.config[name]:
            raise ValueError(
                f"denoiser {str(folder)!r} has {name} {unet.config[name]}, the model {pipeline.unet.config[name]}: it is of another model"
            )
    pipeline.unet = unet


def _fuse(pipeline: StableDiffusionPipeline, adapter: str, source: str) -> None:
    """Adds a LoRA to the weights for good. ValueError where it cannot be read, or is of another model."""
    fix = "give a folder that training with LoRA wrote (RUN/train/final), or a hub id that can be reached"
    place = str(source_path(adapter) or adapter)
    try:
        pipeline.load_lora_weights(place)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"adapter {adapter!r} cannot be loaded onto {source!r}: {' '.join(str(error).split())[:300]}; {fix}") from error
    if not getattr(pipeline.unet, "peft_config", None):  # diffusers only logs where no key fits
        raise ValueError(f"adapter {adapter!r} has no weights for the denoiser of {source!r}; {fix}")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
