"""Tiny video pipelines with random weights, made of the families' own classes: see tiny_pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video_image2video as image_to_video
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tiny_pipelines import T5_TOKENS, WIDTH, clip, numbered, save, t5
from tiny_stable_diffusion import TEXTS
from tokenizers import normalizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from diffalign.backbones.miniature import wan
from diffalign.backbones.miniature.t5 import END, build_tokenizer


def save_ltx(folder: Path, *, dynamic: bool = True, timestep_conditioning: bool = False, kind: Any = LTXPipeline) -> Path:
    """Four pixels and four frames to a latent. The autoencoders of later versions take a timestep in decoding."""
    torch.manual_seed(0)
    blocks: dict[str, Any] = {"block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    vae = AutoencoderKLLTXVideo(
        latent_channels=4, layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5, patch_size=1, scaling_factor=0.8,
        spatio_temporal_scaling=(True, True, False, False), decoder_spatio_temporal_scaling=(True, True, False, False),
        timestep_conditioning=timestep_conditioning, **blocks,
    )  # fmt: skip
    vae.latents_mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.4]))
    vae.latents_std.copy_(torch.tensor([0.5, 2.0, 1.5, 0.8]))
    transformer = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24, num_layers=1,
        caption_channels=WIDTH,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic, shift_terminal=0.1 if dynamic else None)
    return save(kind(vae=vae, transformer=transformer, scheduler=scheduler, **t5()), folder)


def save_wan_image_to_video(folder: Path, *, has_clip: bool = True, boundary: float | None = None) -> Path:
    """Four pixels and four frames to a latent; of the twelve channels four are the mask and four the first frame's.

    boundary  of two experts; the one for low noise has weights of its own
    """
    torch.manual_seed(0)
    architecture = wan.Architecture(
        size=(9, 16, 32), latent_channels=4, autoencoder_channels=4, autoencoder_levels=(1, 2, 2), denoiser_heads=2, denoiser_head_width=12,
        denoiser_layers=1, text_width=WIDTH, text_layers=1, text_heads=2, token_limit=512,
    )  # fmt: skip
    pipeline = wan.build_pipeline(architecture, TEXTS, wan.build_autoencoder(architecture), folder)
    pipeline.vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.5, 1.0, 2.0, 1.5])
    width = 16
    picture: dict[str, Any] = {"image_dim": width, "added_kv_proj_dim": 24} if has_clip else {}
    transformer = WanTransformer3DModel.from_config(pipeline.transformer.config, in_channels=12, **picture)
    vision = CLIPVisionConfig(
        hidden_size=width, intermediate_size=width, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=16
    )
    parts: dict[str, Any] = {name: getattr(pipeline, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    if has_clip:
        parts["image_encoder"] = CLIPVisionModel(vision)
        parts["image_processor"] = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    if boundary is not None:
        parts["transformer_2"] = WanTransformer3DModel.from_config(transformer.config)
    return save(WanImageToVideoPipeline(transformer=transformer, **parts, boundary_ratio=boundary), folder)


def save_cogvideox(folder: Path, kind: Any = CogVideoXPipeline, channels: int = 4, invert: bool = False, **transformer: Any) -> Path:
    """Four pixels and four frames to a latent; angles as places, unless told otherwise; `channels` of the input."""
    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3, up_block_types=("CogVideoXUpBlock3D",) * 3, block_out_channels=(8,) * 3,
        latent_channels=4, layers_per_block=1, norm_num_groups=4, scaling_factor=0.7, invert_scale_latents=invert,
    )  # fmt: skip
    options: dict[str, Any] = {"use_rotary_positional_embeddings": True} | transformer
    denoiser = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=channels, out_channels=4, time_embed_dim=8, text_embed_dim=WIDTH,
        num_layers=1, sample_width=8, sample_height=4, sample_frames=9, patch_size=2, max_text_seq_length=T5_TOKENS, **options,
    )  # fmt: skip
    scheduler = CogVideoXDDIMScheduler(
        snr_shift_scale=3.0, rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False
    )
    return save(kind(vae=vae, transformer=denoiser, scheduler=scheduler, **t5()), folder)


def save_hunyuan_video(folder: Path, *, guidance_embeds: bool = True, image_condition: str | None = None) -> Path:
    """Four pixels and four frames to a latent. Prompts begin where the pipeline cuts the template off.

    image_condition  how the denoiser is given a first frame, where it is; the language model sees it too then
    """
    torch.manual_seed(0)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4, scaling_factor=0.7,
        spatial_compression_ratio=4, temporal_compression_ratio=4,
    )  # fmt: skip
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, text_embed_dim=WIDTH, pooled_projection_dim=WIDTH, rope_axes_dim=(4, 6, 6), guidance_embeds=guidance_embeds,
        image_condition_type=image_condition,
    )  # fmt: skip
    parts: dict[str, Any] = {
        "vae": vae, "transformer": transformer, "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        **numbered(2, clip(folder, CLIPTextModel, tokens=77)),
    }  # fmt: skip
    if image_condition is not None:
        return save(HunyuanVideoImageToVideoPipeline(**parts, **_llava()), folder)
    return save(HunyuanVideoPipeline(**parts, **_llama()), folder)


def _llama() -> dict[str, Any]:
    """A language model whose tokenizer begins with as many tokens as the template lacks up to the place where it is cut off."""
    tokenizer = build_tokenizer(TEXTS, 400)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]})
    before, _ = DEFAULT_PROMPT_TEMPLATE["template"].split("{}")
    lacking = DEFAULT_PROMPT_TEMPLATE["crop_start"] - len(tokenizer(before, add_special_tokens=False).input_ids)
    assert lacking > 0
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{f'{END} ' * lacking}$A {END}", special_tokens=[(END, tokenizer.eos_token_id)]
    )
    return {"tokenizer": tokenizer, "text_encoder": LlamaModel(_llama_config(tokenizer))}


def _llama_config(tokenizer: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip


def _llava() -> dict[str, Any]:
    """A language model that sees pictures as 24×24 tokens. Its tokenizer puts picture and prompt where the pipeline looks for them.

    The number of the token of two new lines is that which diffusers 0.37 looks for.
    """
    template = image_to_video.DEFAULT_PROMPT_TEMPLATE
    tokenizer = build_tokenizer(TEXTS, 400)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]})
    tokenizer.add_tokens([f"filling{place}" for place in range(271 - len(tokenizer))])
    tokenizer.add_tokens(["\n\n"], special_tokens=True)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A {END}", special_tokens=[(END, tokenizer.eos_token_id)]
    )
    before, _ = template["template"].split("{}")
    lacking = template["crop_start"] - len(tokenizer(before).input_ids) + 1
    assert lacking > 0
    longer = normalizers.Replace("describe the video", f"describe the {'a ' * lacking}video")
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), longer])
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=48, patch_size=2)
    config = LlavaConfig(
        text_config=_llama_config(tokenizer), vision_config=vision, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id, vision_feature_layer=-1,
    )  # fmt: skip
    processor = CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=48)
    return {"tokenizer": tokenizer, "text_encoder": LlavaForConditionalGeneration(config), "image_processor": processor}
