"""AudioLDM 2 against diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from family_checks import PROMPTS, normal
from peft_checks import PeftChecks
from sound_checks import SAMPLES, SoundFamilyChecks
from tiny_pipelines import T5_TOKENS, save_audioldm2
from torch import Tensor
from transformers import GPT2Model

from diffalign.backbones import load_backbone
from diffalign.backbones.audioldm2 import Audioldm2
from diffalign.backbones.mel import Mel

STATES = 8
LONG = "a blue square left of a green star"
# diffusers makes its vocoder so
pytestmark = pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")


class TestAudioldm2(PeftChecks, SoundFamilyChecks):
    family, config = "audioldm2", "audioldm2_diffusion_dpo"
    latents: ClassVar[tuple[int, ...]] = (4, 48, 4)
    own: ClassVar[dict[str, Any]] = {"max_new_tokens": STATES}
    takes_checkpointing, rounding = False, 1

    @staticmethod
    def save(folder: Path) -> Path:
        return save_audioldm2(folder)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        """Zeros up to the limit: prompts of a set have one length."""
        with torch.no_grad():
            text, mask, generated = pipeline.encode_prompt(prompts, "cpu", 1, False, max_new_tokens=STATES)
        padded, own = torch.zeros(len(prompts), T5_TOKENS, text.shape[2]), torch.zeros(len(prompts), T5_TOKENS)
        padded[:, : text.shape[1]], own[:, : text.shape[1]] = text, mask
        return {"prompt_embeds": padded, "prompt_mask": own, "generated_embeds": generated}

    # What is another question for sounds

    def test_latents_are_scaled_as_the_pipeline_unscales_them(self, loaded: Any, folder: Path) -> None:
        pipeline = self.plain(folder)
        latents, sound = (self.made(pipeline, [1, 2], output_type=kind) for kind in ("latent", "pt"))
        assert latents.shape == (2, *self.latents) and torch.allclose(loaded.decode(latents)[:, 0], sound, atol=1e-6)
        media = 0.3 * normal(2, 1, SAMPLES)
        with torch.no_grad():
            posterior = pipeline.vae.encode(Mel(8000, hop=8, bins=8, highest_hz=4000.0, peak=0.5).of(media)).latent_dist
        assert torch.allclose(loaded.encode(media, seeds=None), 0.7 * posterior.mean, atol=1e-5)
        drawn = torch.stack([normal(*self.latents, seed=seed) for seed in (7, 8)])
        assert torch.allclose(loaded.encode(media, seeds=[7, 8]), 0.7 * (posterior.mean + posterior.std * drawn), atol=1e-5)

    def test_sample_is_plain_diffusers_and_depends_on_prompt_and_seed_alone(self, loaded: Any, folder: Path) -> None:
        ours = self.our_pixels(loaded, [1, 2])
        assert np.abs(ours[:, 0] - self.plain_pixels(self.plain(folder), [1, 2])).max() <= 1
        assert ours.shape == (2, 1, SAMPLES) and ours.std() > 100
        assert np.abs(ours[1] - self.our_pixels(loaded, [2], PROMPTS[1:])[0]).max() <= 1
        assert np.abs(ours[1] - self.our_pixels(loaded, [3], PROMPTS[1:])[0]).max() > 100
        with pytest.raises(ValueError, match="2 prompts and 1 seeds; give one seed per prompt"):
            self.our_pixels(loaded, [1])

    # What is its own

    def test_prompts_of_unequal_length_do_not_mix(self, loaded: Any, folder: Path) -> None:
        """A short one beside a long one is what it is alone, in embeds and samples; in one batch of the pipeline it is not."""
        together, alone = loaded.embed([PROMPTS[0], LONG]), loaded.embed([PROMPTS[0]])
        for name, value in alone.items():
            assert torch.allclose(together[name][:1], value, atol=1e-6), name
        ours, plain = self.our_pixels(loaded, [1, 2], [PROMPTS[0], LONG]), self.plain(folder)
        for place, prompt in enumerate((PROMPTS[0], LONG)):
            expected = np.rint(self.made(plain, [place + 1], [prompt]) * 32768)
            assert np.abs(ours[place] - expected).max() <= 1
        mixed = np.rint(self.made(plain, [1, 2], [PROMPTS[0], LONG]) * 32768)
        assert np.abs(ours[0] - mixed[0]).max() > 1

    def test_gpt_2_without_its_head_continues_as_with_it(self, loaded: Any, tmp_path: Path) -> None:
        """As the first releases are saved: the same weights, so the same states; and what is saved has a head."""
        headless = save_audioldm2(tmp_path / "first", has_head=False)
        other: Any = load_backbone("audioldm2", str(headless))
        assert isinstance(self.plain(headless).language_model, GPT2Model)
        head = dict(loaded.pipeline.language_model.transformer.named_parameters())
        for name, weight in other.pipeline.language_model.transformer.named_parameters():
            weight.data.copy_(head[name])
        for part in ("text_encoder", "text_encoder_2", "projection_model"):
            getattr(other.pipeline, part).load_state_dict(getattr(loaded.pipeline, part).state_dict())
        found, expected = other.embed(PROMPTS), loaded.embed(PROMPTS)
        assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in expected.items())
        other.save(tmp_path / "again")
        again = self.plain(tmp_path / "again")
        assert torch.allclose(self.embeds_of(again, PROMPTS)["generated_embeds"], expected["generated_embeds"], atol=1e-6)

    def test_lengths_are_of_whole_latents_of_the_denoiser(self, loaded: Any) -> None:
        """Eight samples to a frame, two frames to a latent, two latents to a place of the UNet's middle."""
        assert loaded.size == (SAMPLES,) and loaded.rate == 8000
        assert [loaded.whole((samples,)) for samples in (768, 335, 31)] == [(768,), (320,), (0,)]
        assert loaded.time_edges(4) == [0, 0.25, 0.5, 0.75, 1]
        [sound] = loaded.sample(PROMPTS[:1], [1], steps=2, guidance=1.0, size=(320,), scheduler="euler")
        assert sound.columns == {"samples": 320, "sample_rate_hz": 8000, "channels": 1}

    def test_checkpointing_of_gradients_is_refused(self, loaded: Any) -> None:
        """diffusers hands its attention the arguments one place off there: the mask of the text becomes one of the latents."""
        with pytest.raises(ValueError, match=r"this UNet wrongly with it; set train\.gradient_checkpointing=false"):
            loaded.denoiser.enable_gradient_checkpointing()

    def test_a_reader_of_transcriptions_is_refused(self, folder: Path) -> None:
        pipeline = self.plain(folder)
        pipeline.text_encoder_2.config.model_type = "vits"
        with pytest.raises(ValueError, match=r"x reads a transcription aloud .* give a model of sounds"):
            Audioldm2(pipeline, "x")
