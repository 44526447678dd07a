"""What a sound of the tones world is like, as one vector: for distances between whole sets of sounds."""

import numpy as np

from .render import SAMPLE_RATE_HZ
from .spectrum import BIN_HZ, power_spectrogram

BANDS = 24
_LOWEST_HZ = 100.0
_FLOOR_DB = -80.0


def features(waveform: np.ndarray) -> np.ndarray:
    """float64 (48,): mean and standard deviation over time of the level in dB in each of 24 bands, as wide as a factor of pitch.

    waveform: float (samples,) in [-1, 1] at 16 kHz. Levels below -80 dBFS count as that.
    """
    spectrum = power_spectrogram(waveform)
    edges = np.geomspace(_LOWEST_HZ, SAMPLE_RATE_HZ / 2, BANDS + 1) / BIN_HZ
    places = np.arange(spectrum.shape[1])[:, None]
    shares = np.clip(np.minimum(places + 0.5, edges[1:]) - np.maximum(places - 0.5, edges[:-1]), 0, None)  # of each bin, in each band
    level = np.maximum(10 * np.log10(spectrum @ shares + 1e-12), _FLOOR_DB)
    return np.concatenate([level.mean(axis=0), level.std(axis=0)])
