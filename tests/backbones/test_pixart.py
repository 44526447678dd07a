"""PixArt-α and PixArt-Σ against diffusers itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from family_checks import PROMPTS, FamilyChecks, normal
from peft_checks import PeftChecks
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tiny_pipelines import T5_TOKENS, WIDTH, save_pixart, save_sdxl
from tiny_stable_diffusion import TEXTS
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from diffalign.backbones import load_backbone
from diffalign.backbones.miniature.t5 import encoder_config
from diffalign.backbones.pixart import TOKEN_LIMITS

# diffusers hands tensors to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


class TestPixart(PeftChecks, FamilyChecks):
    """Of Σ."""

    family, config = "pixart", "pixart_diffusion_dpo"
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": T5_TOKENS, "use_resolution_binning": False, "clean_caption": False}

    @staticmethod
    def save(folder: Path) -> Path:
        return save_pixart(folder)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        embeds, mask, _, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=T5_TOKENS)
        return {"prompt_embeds": embeds, "prompt_mask": mask}

    def test_the_learned_variance_is_left_out(self, loaded: Any) -> None:
        """The second half of the channels that the denoiser makes."""
        made: list[Tensor] = []
        loaded.denoiser.register_forward_hook(lambda module, inputs, output: made.append(output[0]))
        with torch.no_grad():
            found = loaded.predict(loaded.denoiser, normal(2, 4, 8, 12), torch.tensor([5, 6]), loaded.embed(PROMPTS))
        assert made[0].shape == (2, 8, 8, 12) and torch.equal(found, made[0][:, :4])

    def test_text_after_the_last_token_changes_nothing(self, loaded: Any) -> None:
        embeds = loaded.embed(PROMPTS)
        other = embeds["prompt_embeds"] + (1 - embeds["prompt_mask"])[..., None] * 3.0
        x, timestep = normal(2, 4, 8, 12), torch.tensor([5, 6])
        with torch.no_grad():
            found = [
                loaded.predict(loaded.denoiser, x, timestep, embeds | {"prompt_embeds": text}) for text in (embeds["prompt_embeds"], other)
            ]
        assert torch.allclose(*found, atol=1e-6)


def test_a_tokenizer_of_sentencepiece_alone_is_read(tmp_path: Path) -> None:
    """As PixArt, CogVideoX and LTX were released: spiece.model without tokenizer.json. Tokens by sentencepiece itself."""
    folder = save_pixart(tmp_path / "pixart")
    place = folder / "tokenizer"
    shutil.rmtree(place)
    place.mkdir()
    SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, *PROMPTS] * 20), model_prefix=str(place / "spiece"), vocab_size=40, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (place / "spiece.vocab").unlink()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    written = {"tokenizer_class": "T5Tokenizer", "model_max_length": T5_TOKENS, "extra_ids": 0, **names}
    (place / "tokenizer_config.json").write_text(json.dumps(written))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"tokenizer": ["transformers", "T5Tokenizer"]}))
    pieces = SentencePieceProcessor(model_file=str(place / "spiece.model"))
    own: Any = T5EncoderModel(T5Config(**encoder_config(WIDTH, 1, 2, pieces.vocab_size())))
    own.save_pretrained(folder / "text_encoder")
    loaded: Any = load_backbone("pixart", str(folder))
    for prompt in PROMPTS:
        assert loaded.pipeline.tokenizer(prompt).input_ids == [*pieces.encode(prompt), 1]
    assert loaded.embed(PROMPTS)["prompt_embeds"].shape == (2, T5_TOKENS, WIDTH)
    assert len(loaded.sample(PROMPTS[:1], [1], steps=2, guidance=3.0, size=(16, 24))) == 1


@pytest.mark.parametrize("sample_size", [8, 128])
def test_alpha(sample_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest has the picture's size and shape as conditioning: height and width differ here."""
    checks, folder = TestPixart(), save_pixart(tmp_path, is_alpha=True, sample_size=sample_size)
    loaded = load_backbone("pixart", str(folder))
    assert type(loaded.pipeline).__name__ == "PixArtAlphaPipeline" and loaded.size == (2 * sample_size, 2 * sample_size)
    checks.test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)
    monkeypatch.undo()
    checks.test_sample_is_plain_diffusers_and_depends_on_prompt_and_seed_alone(loaded, folder)


def test_prompts_are_as_long_as_each_version_reads() -> None:
    assert {kind.__name__: limit for kind, limit in TOKEN_LIMITS.items()} == {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}


def test_another_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a StableDiffusionXLPipeline; give a PixArt-α or PixArt-Σ"):
        load_backbone("pixart", str(save_sdxl(tmp_path)))
