"""Log-mel spectrograms of waveforms, and back with a trained vocoder or without."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

LEAST = 1e-5  # of a magnitude, before the logarithm: −11.5
SILENCE = 1e-8  # beside a peak, as the releases have it: silence stays silent
PEAK = 0.5  # of what AudioLDM, AudioLDM 2 and Tango were trained on


def vocode(vocoder: Any, log_mel: Tensor) -> Tensor:
    """(N, 1, samples) in [−1, 1] of (N, 1, frames, bins), by a trained vocoder such as SpeechT5HifiGan."""
    return vocoder(log_mel.squeeze(1).to(vocoder.dtype)).view(len(log_mel), 1, -1).float().clamp(-1, 1)


@dataclass(frozen=True)
class Mel:
    """Slaney's mel scale over magnitudes, as Tango, AudioLDM and HiFi-GAN have it (Kong et al. 2020, arXiv:2010.05646).

    sample_rate_hz, n_fft, hop (both in samples), bins, highest_hz
    peak        to which a waveform is brought first, its mean taken off, as AudioLDM and Tango were trained on 0.5; None: as it is
    iterations  of Griffin and Lim 1984, doi:10.1109/TASSP.1984.1164317, in their fast form (Perraudin et al. 2013)
    """

    sample_rate_hz: int = 16_000
    n_fft: int = 1024
    hop: int = 160
    bins: int = 64
    highest_hz: float = 8000.0
    iterations: int = 32
    peak: float | None = None

    @cached_property
    def _spectrogram(self) -> Any:
        from torchaudio.transforms import MelSpectrogram

        return MelSpectrogram(
            self.sample_rate_hz, n_fft=self.n_fft, hop_length=self.hop, n_mels=self.bins, f_min=0.0, f_max=self.highest_hz, power=1.0,
            norm="slaney", mel_scale="slaney",
        )  # fmt: skip

    @cached_property
    def _inverse(self) -> Tensor:
        return torch.linalg.pinv(self._spectrogram.mel_scale.fb.T)

    def of(self, waveform: Tensor) -> Tensor:
        """(N, 1, frames, bins) of (N, 1, samples), samples a multiple of hop: the frame centred on the end is left out."""
        waveform = waveform.float()
        if self.peak is not None:
            centred = waveform - waveform.mean(-1, keepdim=True)
            waveform = self.peak * centred / (centred.abs().amax(-1, keepdim=True) + SILENCE)
        mel = self._spectrogram.to(waveform.device)(waveform)
        return mel[..., : waveform.shape[-1] // self.hop].clamp_min(LEAST).log().transpose(-1, -2)

    def waveform(self, log_mel: Tensor) -> Tensor:
        """(N, 1, samples) in [−1, 1] of (N, 1, frames, bins), by Griffin–Lim from zero phase: the same bits at every call."""
        from torchaudio.functional import griffinlim

        mel = log_mel.float().exp().transpose(-1, -2)
        mel = torch.cat([mel, mel[..., -1:]], -1)
        magnitude = (self._inverse.to(mel) @ mel).clamp_min(0)
        # One at a time on a CPU, whose caches do not hold more: the same bits a third sooner.
        parts = magnitude.squeeze(1).split(1 if mel.device.type == "cpu" else len(mel))
        window, length = torch.hann_window(self.n_fft, device=mel.device), log_mel.shape[2] * self.hop
        found = [
            griffinlim(
                part, window=window, n_fft=self.n_fft, hop_length=self.hop, win_length=self.n_fft, power=1.0, n_iter=self.iterations,
                momentum=0.99, length=length, rand_init=False,
            )
            for part in parts
        ]  # fmt: skip
        return torch.cat(found).unsqueeze(1).clamp(-1, 1)
