"""Tiny pipelines with random weights, made of the families' own classes and saved in the layout of a hub.

16×24 pixels or more; latents of 4 channels, of an eighth to a half of the sides; sounds of 768 samples, latents of 4 channels, 48 places.
Nothing of a scale or shift is 1 or 0, so that leaving one out shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import (
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderOobleck,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from tiny_stable_diffusion import TEXTS
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    RobertaTokenizerFast,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from diffalign.backbones import quiet_loading
from diffalign.backbones.miniature.clip import build_tokenizer as build_clip_tokenizer
from diffalign.backbones.miniature.t5 import build_tokenizer as build_t5_tokenizer
from diffalign.backbones.miniature.t5 import encoder_config

WIDTH = 32
CLIP_TOKENS, T5_TOKENS, LANGUAGE_TOKENS, MISTRAL_TOKENS = 12, 16, 40, 64


def save(pipeline: Any, folder: Path) -> Path:
    quiet_loading()
    pipeline.save_pretrained(folder)
    return folder


def autoencoder(**options: Any) -> AutoencoderKL:
    """Two pixels to a latent."""
    return AutoencoderKL(
        block_out_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.7, **options,
    )  # fmt: skip


def clip(folder: Path, kind: type, width: int = WIDTH, tokens: int = CLIP_TOKENS) -> dict[str, Any]:
    """A tokenizer and a text encoder of this class."""
    tokenizer = build_clip_tokenizer(list(TEXTS) * 3, folder / "words", tokens)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=width, max_position_embeddings=tokens, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return {"tokenizer": tokenizer, "text_encoder": kind(config)}


def t5() -> dict[str, Any]:
    tokenizer = build_t5_tokenizer(TEXTS, T5_TOKENS)
    return {"tokenizer": tokenizer, "text_encoder": T5EncoderModel(T5Config(**encoder_config(WIDTH, 1, 2, len(tokenizer))))}


def numbered(number: int, parts: dict[str, Any]) -> dict[str, Any]:
    """tokenizer → tokenizer_2."""
    return {f"{name}_{number}": part for name, part in parts.items()}


def save_instruct_pix2pix(folder: Path) -> Path:
    """Of the eight channels that the denoiser takes four are the edited image's."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=8, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=WIDTH,
        norm_num_groups=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    scheduler = EulerAncestralDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=autoencoder(), unet=unet, scheduler=scheduler, **clip(folder, CLIPTextModel), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    return save(pipeline, folder)


def save_sdxl(folder: Path, *, prediction: str = "epsilon", layers: int = 1, **vae: Any) -> Path:
    """layers: of a level; the real one has two."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=layers, cross_attention_dim=WIDTH + 16, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=16 + 6 * 8,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading",
        prediction_type=prediction,
    )  # fmt: skip
    second = numbered(2, clip(folder, CLIPTextModelWithProjection, 16))
    return save(
        StableDiffusionXLPipeline(
            vae=autoencoder(**vae), unet=unet, scheduler=scheduler, **clip(folder, CLIPTextModel), **second, add_watermarker=False
        ),
        folder,
    )


def save_sd3(folder: Path, *, has_t5: bool = True, is_35: bool = False) -> Path:
    """Version 3.5 has normed queries and keys, and a second attention in its first layers."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=WIDTH + 16, caption_projection_dim=16, pooled_projection_dim=WIDTH + 16, pos_embed_max_size=16,
        **({"dual_attention_layers": (0,), "qk_norm": "rms_norm"} if is_35 else {}),
    )  # fmt: skip
    third = numbered(3, t5()) if has_t5 else {"tokenizer_3": None, "text_encoder_3": None}
    if has_t5:  # as wide as both CLIPs together at least
        third["text_encoder_3"] = T5EncoderModel(T5Config(**encoder_config(WIDTH + 16, 1, 2, len(third["tokenizer_3"]))))
    pipeline = StableDiffusion3Pipeline(
        vae=autoencoder(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False), transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **clip(folder, CLIPTextModelWithProjection),
        **numbered(2, clip(folder, CLIPTextModelWithProjection, 16)), **third,
    )  # fmt: skip
    return save(pipeline, folder)


def save_flux(folder: Path, *, guidance_embeds: bool = True, kind: type[DiffusionPipeline] = FluxPipeline) -> Path:
    """With guidance embedded it is like FLUX.1 [dev], without like [schnell]."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, guidance_embeds=guidance_embeds, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    pipeline = kind(
        vae=autoencoder(shift_factor=0.11, use_quant_conv=False, use_post_quant_conv=False), transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance_embeds),
        **clip(folder, CLIPTextModel), **numbered(2, t5()),
    )  # fmt: skip
    return save(pipeline, folder)


def save_pixart(folder: Path, *, is_alpha: bool = False, sample_size: int = 8) -> Path:
    """A sample size of 128 is that of the largest PixArt-α, which has the picture's size as conditioning."""
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        sample_size=sample_size, num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=1,
        cross_attention_dim=24, caption_channels=WIDTH, patch_size=2, norm_num_groups=4,
        use_additional_conditions=is_alpha and sample_size == 128,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", solver_order=2)
    kind = PixArtAlphaPipeline if is_alpha else PixArtSigmaPipeline
    return save(kind(vae=autoencoder(), transformer=transformer, scheduler=scheduler, **t5()), folder)


def save_sana(folder: Path, *, shift: float = 3.0) -> Path:
    torch.manual_seed(0)
    levels: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": (1, 1), "qkv_multiscales": ((), ())}
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in levels.items()}
    vae = AutoencoderDC(latent_channels=4, attention_head_dim=4, scaling_factor=0.41, **sides)
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=8, num_cross_attention_heads=2,
        cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=WIDTH, sample_size=32, patch_size=1, timestep_scale=0.5,
    )  # fmt: skip
    tokenizer = build_t5_tokenizer(TEXTS, LANGUAGE_TOKENS)
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, pad_token_id=0, eos_token_id=1, bos_token_id=1,
            max_position_embeddings=1024,
        )
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    return save(SanaPipeline(tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler), folder)


def save_qwen_image(folder: Path, *, kind: type[DiffusionPipeline] = QwenImagePipeline, **options: Any) -> Path:
    """Of those that edit the tokenizer comes in one with what reads pictures too, and has tokens for them.

    options   of the transformer
    """
    is_edit = kind is not QwenImagePipeline
    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False], latents_mean=[0.1, -0.2, 0.3, 0.4],
        latents_std=[0.5, 2.0, 1.5, 0.8],
    )  # fmt: skip
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6), **options,
    )  # fmt: skip
    tokenizer = build_t5_tokenizer(TEXTS, LANGUAGE_TOKENS)
    words = len(tokenizer)
    if is_edit:
        marks = ("image_pad", "video_pad", "vision_start", "vision_end")
        tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{mark}|>" for mark in marks]})
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH}
    rope = {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"}
    text = {"vocab_size": len(tokenizer), "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "rope_scaling": rope}
    config = Qwen2_5_VLConfig(
        text_config=sizes | text,
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH},
        # Beyond the words; transformers 4 has no numbers for them of its own.
        image_token_id=words, video_token_id=words + 1, vision_start_token_id=words + 2, vision_end_token_id=words + 3,
    )  # fmt: skip
    parts: dict[str, Any] = {
        "vae": vae, "transformer": transformer, "tokenizer": tokenizer, "text_encoder": Qwen2_5_VLForConditionalGeneration(config),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
    }  # fmt: skip
    if is_edit:
        parts["tokenizer"] = of_qwen2(tokenizer)
        processor = Qwen2VLProcessor(Qwen2VLImageProcessor(), parts["tokenizer"], Qwen2VLVideoProcessor())
        parts["processor"] = processor
    return save(kind(**parts), folder)


def of_qwen2(tokenizer: Any) -> Any:
    """The same of Qwen2's own class, which the processors of transformers 4 ask for; that of 5 would build other tokens when it is read."""
    if int(transformers.__version__.partition(".")[0]) > 4:
        return tokenizer
    own = {"model_max_length": tokenizer.model_max_length, "padding_side": tokenizer.padding_side, **tokenizer.special_tokens_map}
    return Qwen2TokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **own)


def save_z_image(folder: Path) -> Path:
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=WIDTH, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH, axes_dims=[4, 6, 6],
        axes_lens=[128, 32, 32],
    )  # fmt: skip
    for token in (transformer.x_pad_token, transformer.cap_pad_token):  # older diffusers leaves them as memory was
        torch.nn.init.normal_(token, std=0.02)
    tokenizer = build_t5_tokenizer(TEXTS, LANGUAGE_TOKENS)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} a{% endfor %}"
    text_encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16,
        )
    )  # fmt: skip
    pipeline = ZImagePipeline(
        vae=autoencoder(shift_factor=0.11), transformer=transformer, tokenizer=tokenizer, text_encoder=text_encoder,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip
    return save(pipeline, folder)


def flux2_parts(guidance_embeds: bool) -> dict[str, Any]:
    """The autoencoder, the denoiser and the scheduler."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vae.bn.running_mean.copy_(torch.linspace(-0.4, 0.5, 16))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, 16))
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=3 * 16,
        timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return {"vae": vae, "transformer": transformer, "scheduler": scheduler}


def save_flux2(folder: Path, *, is_distilled: bool = False) -> Path:
    """The text encoder is as deep as its pipeline looks into it."""
    torch.manual_seed(0)
    parts = flux2_parts(guidance_embeds=False)
    tokenizer = build_t5_tokenizer(TEXTS, LANGUAGE_TOKENS)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} a{% endfor %}"
    text_encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=28, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8,
        )
    )  # fmt: skip
    pipeline = Flux2KleinPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, is_distilled=is_distilled, **parts,
    )  # fmt: skip
    return save(pipeline, folder)


def save_flux2_dev(folder: Path) -> Path:
    """The text encoder is as deep as its pipeline looks into it; its tokenizer comes in one with what reads pictures."""
    torch.manual_seed(0)
    parts = flux2_parts(guidance_embeds=True)
    tokenizer = build_t5_tokenizer(TEXTS, MISTRAL_TOKENS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]})
    template = "{% for message in messages %}{{ message['content'][0]['text'] }} a {% endfor %}"
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    text_encoder = Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config=sizes | {"model_type": "mistral", "vocab_size": len(tokenizer), "num_hidden_layers": 31, "num_key_value_heads": 1},
            vision_config=sizes | {"model_type": "pixtral", "num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
            image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        )
    )  # fmt: skip
    processor = PixtralProcessor(PixtralImageProcessor(), tokenizer, chat_template=template)
    return save(Flux2Pipeline(tokenizer=processor, text_encoder=text_encoder, **parts), folder)


def save_stable_audio(folder: Path, **scheduler: Any) -> Path:
    """Two channels at 8 kHz, sixteen samples to a latent, as many as the window has places; seconds up to a tenth are told apart.

    torchsde must be there, or its stand-in.
    """
    import diffusers

    torch.manual_seed(0)
    vae = AutoencoderOobleck(
        encoder_hidden_size=8, downsampling_ratios=[4, 4], channel_multiples=[1, 2], decoder_channels=8, decoder_input_channels=4,
        sampling_rate=8000,
    )  # fmt: skip
    transformer = StableAudioDiTModel(
        sample_size=48, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        num_key_value_attention_heads=1, cross_attention_dim=16, time_proj_dim=16, global_states_input_dim=48, cross_attention_input_dim=24,
    )  # fmt: skip
    pipeline = StableAudioPipeline(
        vae=vae, transformer=transformer, projection_model=StableAudioProjectionModel(WIDTH, 24, 0, 0.1),
        scheduler=diffusers.CosineDPMSolverMultistepScheduler(**scheduler), **t5(),
    )  # fmt: skip
    return save(pipeline, folder)


def save_audioldm2(folder: Path, *, has_head: bool = True) -> Path:
    """Mono at 8 kHz, eight samples to a frame of eight bins, two by two to a latent. Without its head GPT-2 is as first released."""
    torch.manual_seed(0)
    words, letters = t5_words(), roberta_letters(folder / "letters")
    unet = AudioLDM2UNet2DConditionModel(
        sample_size=48, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8, attention_head_dim=(2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=((None, 16, WIDTH), (None, 16, WIDTH)),
    )  # fmt: skip
    vae = AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.7,
    )  # fmt: skip
    text: dict[str, Any] = {"vocab_size": len(letters), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                            "num_attention_heads": 2, "max_position_embeddings": 80}  # fmt: skip
    audio: dict[str, Any] = {"spec_size": 8, "window_size": 4, "num_mel_bins": 8, "depths": [1, 1], "num_attention_heads": [1, 1],
                             "hidden_size": 16, "patch_size": 1, "patch_stride": 1, "patch_embeds_hidden_size": 4}  # fmt: skip
    language = GPT2Config(vocab_size=8, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
    vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(
        model_in_dim=8, sampling_rate=8000, upsample_initial_channel=16, upsample_rates=[2, 4], upsample_kernel_sizes=[4, 8],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
    ))  # fmt: skip
    for weights in vocoder.parameters():  # its own beginning is next to silence
        torch.nn.init.normal_(weights, std=0.15)
    pipeline = AudioLDM2Pipeline(
        vae=vae, unet=unet, text_encoder=ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=12)), tokenizer=letters,
        text_encoder_2=T5EncoderModel(T5Config(**encoder_config(WIDTH, 1, 2, len(words)))), tokenizer_2=words,
        projection_model=AudioLDM2ProjectionModel(12, WIDTH, 16),
        language_model=GPT2LMHeadModel(language) if has_head else GPT2Model(language),
        feature_extractor=ClapFeatureExtractor(feature_size=8),
        scheduler=DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
                                set_alpha_to_one=False),
        vocoder=vocoder,
    )  # fmt: skip
    return save(pipeline, folder)


def t5_words() -> T5TokenizerFast:
    """Of T5's own class: one token for each word of the texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = sorted({word for text in TEXTS for word in text.replace(",", " ").split()})
    pieces = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>", *(f"\u2581{word}" for word in words))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair=None, special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=T5_TOKENS)


def roberta_letters(folder: Path) -> RobertaTokenizerFast:
    """Of RoBERTa's own class: one token for each letter."""
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "\u0120", *(chr(ord("a") + place) for place in range(26))]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({name: index for index, name in enumerate(names)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return RobertaTokenizerFast.from_pretrained(folder, model_max_length=64)
