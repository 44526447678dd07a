"""Small encoded media, another one for each number: a PNG, a lossless MP4, a FLAC or WAV."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from diffalign.data.modalities.audio import Audio
from diffalign.data.modalities.image import Image
from diffalign.data.modalities.video import Video

RATE = 8000


def png(number: int, side: int = 8) -> bytes:
    return Image.from_pixels(np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)).encoded()


def mp4(number: int, frames: int = 3) -> bytes:
    return Video.from_frames(np.random.default_rng(number).integers(0, 256, (frames, 8, 8, 3), np.uint8), 8.0).encoded()


def flac(number: int, samples: int = 400) -> bytes:
    return Audio.from_waveform(np.random.default_rng(number).uniform(-0.5, 0.5, (1, samples)), RATE).encoded()


def wav(number: int, samples: int = 400) -> bytes:
    """The samples of `flac`, in another form."""
    import soundfile

    audio, buffer = Audio.from_bytes(flac(number, samples)), BytesIO()
    soundfile.write(buffer, audio.waveform().T, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
