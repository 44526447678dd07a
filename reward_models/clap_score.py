"""CLAP score: how well a sound agrees with its prompt, by any ClapModel of transformers without feature fusion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from diffalign.data.modalities import Media
from diffalign.data.modalities.audio import resample
from diffalign.data.modalities.stored import library
from reward_models.contract import check_call
from reward_models.pretrained import (
    checked_batch,
    chunks,
    from_pretrained,
    pretrained_model,
    settings_digest,
    torch_device,
    unit_embeddings,
    weights_digest,
)
from reward_models.waveforms import Waveform, mono

if TYPE_CHECKING:
    from torch import Tensor

TOKEN_LIMIT = 77  # of a prompt in the release (LAION-AI/CLAP, hook.py), whose text encoders would read 512
MARGIN_SECONDS = 1.0  # what is resampled beyond the window, so that the window's end is as in the whole sound


class ClapScore:
    """The cosine of sound and text, −1 to 1, in float32: Wu et al. 2022, arXiv:2211.06687.

    A sound is mixed to mono and resampled to the model's rate (48 kHz). One longer than the model's window (10 s) is judged by its first
    window, where the release takes a random one: a score is a function of the sound. A shorter one is repeated, as the release does.
    Prompts are cut at 77 tokens, as in the release, or at the encoder's limit where that is less. The release also brings sounds to 16
    bits and back, which is not done here: about 1e-5 of a score.

    checkpoint    a hub id (laion/larger_clap_general, laion/clap-htsat-unfused, laion/larger_clap_music), or a folder that transformers
                  saved, with feature extractor and tokenizer; "random": random weights, for tests of the plumbing
    architecture  where the weights are random: a folder with config, feature extractor and tokenizer
    revision      of a hub id: branch, tag or commit
    prefix        put before every prompt
    device        "auto" (CUDA where there is one), or as torch names them
    batch         sounds per forward
    seed          of the random weights
    """

    name = "clap_score"
    modalities = frozenset({"audio"})
    dimensions = ("score",)
    groupwise = False

    def __init__(
        self, checkpoint: str, *, architecture: str | None = None, revision: str | None = None, prefix: str = "", device: str = "auto",
        batch: int = 16, seed: int = 0,
    ) -> None:  # fmt: skip
        library("torchaudio", "audio")
        from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor

        self.batch = checked_batch(self.name, batch)
        if (checkpoint == "random") != (architecture is not None):
            raise ValueError(
                f"clap_score got checkpoint = {checkpoint!r} and architecture = {architecture!r}; give a folder as architecture with "
                "checkpoint = 'random', and only then"
            )
        source = architecture or checkpoint
        self.device = torch_device(self.name, device)
        config = from_pretrained(self.name, ClapConfig, source, revision)
        if config.audio_config.enable_fusion:
            raise ValueError(
                f"clap_score got {source!r}, which fuses random crops of a sound; give a model without feature fusion, such as "
                "laion/clap-htsat-unfused or laion/larger_clap_general"
            )
        self.extractor = from_pretrained(self.name, ClapFeatureExtractor, source, revision)
        self.tokenizer = from_pretrained(self.name, AutoTokenizer, source, revision)
        self.model = random_model(config, seed) if architecture else trained_model(checkpoint, revision)
        self.prefix = prefix
        self.rate, self.window = int(self.extractor.sampling_rate), int(self.extractor.nb_max_samples)
        text = config.text_config  # whose positions begin after the padding's own
        self.token_limit = min(TOKEN_LIMIT, self.tokenizer.model_max_length, text.max_position_embeddings - (text.pad_token_id or 0) - 1)
        weights = f"seed-{seed}" if architecture else weights_digest(self.model)
        features = {name: value for name, value in self.extractor.to_dict().items() if not name.startswith("mel_filters")}
        others = settings_digest(config.to_diff_dict(), features, self.tokenizer.get_vocab(), self.token_limit)
        self.revision = "/".join([Path(source).name, weights, others, *([prefix] if prefix else [])])
        self.model.to(self.device)

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """{"score": one float per sound}. A prompt that several sounds share is encoded once."""
        import torch

        check_call(self, prompts, media)
        if not media:
            return {"score": []}
        row = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
        with torch.inference_mode():
            texts = torch.cat([self.embed_texts(chunk) for chunk in chunks(list(row), self.batch)])
            sounds = torch.cat([self.embed_sounds(chunk) for chunk in chunks(cast("Sequence[Waveform]", media), self.batch)])
            return {"score": (sounds * texts[[row[prompt] for prompt in prompts]]).sum(1).tolist()}

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit text embeddings, (N, D) float32."""
        tokens = self.tokenizer(
            [self.prefix + prompt for prompt in prompts], padding=True, truncation=True, max_length=self.token_limit, return_tensors="pt"
        ).to(self.device)
        return unit_embeddings(self.model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]))

    def embed_sounds(self, sounds: Sequence[Waveform]) -> Tensor:
        """Unit sound embeddings, (N, D) float32, of each sound's first window."""
        import torch

        windows = [self.first_window(sound) for sound in sounds]
        mels = self.extractor(windows, sampling_rate=self.rate, truncation="rand_trunc")["input_features"]
        features = torch.from_numpy(np.stack(mels)).float()
        return unit_embeddings(self.model.get_audio_features(input_features=features.to(self.device)))

    def first_window(self, sound: Waveform) -> np.ndarray:
        """float32 (samples,), mono at the model's rate, at most a window long."""
        own = sound.sample_rate_hz
        needed = math.ceil((self.window / self.rate + MARGIN_SECONDS) * own)
        samples = mono(sound.waveform()[:, :needed]).astype(np.float32)[None]
        return (samples if own == self.rate else resample(samples, own, self.rate))[0, : self.window]


def trained_model(checkpoint: str, revision: str | None) -> Any:
    """The model of a checkpoint, in float32."""
    import torch
    from transformers import ClapModel

    return pretrained_model(ClapScore.name, ClapModel, checkpoint, revision, torch.float32)


def random_model(config: Any, seed: int) -> Any:
    """The model of a config with random weights, a function of the seed."""
    import torch
    from transformers import ClapModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ClapModel(config).eval()
