"""Pictures of a sound: its waveform and its log-mel spectrum, both along the same time."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

WIDTH, WAVE_HEIGHT, BANDS = 480, 96, 64  # pixels; one line of the spectrum per mel band
WINDOW_SECONDS = 0.04
LOWEST, HIGHEST = -90.0, -10.0  # decibels of a full-scale sine, from the first colour to the last: the same for every sound
MOST_WINDOWS = 16  # averaged in one column of a long sound
WAVE_COLOUR = (91, 124, 240)  # 3.9 : 1 on the light page, 4.4 : 1 on the dark one
# Magma (van der Walt and Smith 2015) at six points: it grows evenly lighter, and its black is a frame of its own on either page.
PALETTE = np.array([(0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191)], np.float64)


def wave_picture(waveform: np.ndarray) -> Image.Image:
    """RGBA of float (channels, samples): from lowest to highest value of each column, pale, and its root mean square, solid.

    The height is the sound's own peak; the page scales it to the others of the row.
    """
    edges = np.linspace(0, waveform.shape[1], WIDTH + 1).astype(int)
    starts = np.minimum(edges[:-1], waveform.shape[1] - 1)
    counts = np.maximum(1, edges[1:] - edges[:-1]) * len(waveform)
    peak = float(np.abs(waveform).max()) or 1.0
    low = np.minimum.reduceat(waveform.min(axis=0), starts) / peak
    high = np.maximum.reduceat(waveform.max(axis=0), starts) / peak
    power = np.add.reduceat((waveform.astype(np.float64) ** 2).sum(axis=0), starts)
    mean = np.sqrt(power / counts) / peak
    level = 1 - (np.arange(WAVE_HEIGHT) + 0.5)[:, None] * 2 / WAVE_HEIGHT
    half = 1.01 / WAVE_HEIGHT  # silence is a line of two pixels
    alpha = np.where((level <= high + half) & (level >= low - half), 130, 0)
    alpha = np.where(np.abs(level) <= mean + half, 255, alpha)
    pixels = np.empty((WAVE_HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = WAVE_COLOUR, alpha
    return Image.fromarray(pixels)


def mel_picture(waveform: np.ndarray, rate: int) -> Image.Image:
    """RGB of float (channels, samples): time to the right, mel bands up to half of `rate` upwards, decibels as colour."""
    level = (log_mel(waveform, rate) - LOWEST) / (HIGHEST - LOWEST)
    place = np.clip(level, 0, 1) * (len(PALETTE) - 1)
    colours = np.stack([np.interp(place, np.arange(len(PALETTE)), PALETTE[:, channel]) for channel in range(3)], axis=-1)
    return Image.fromarray(np.rint(colours[::-1]).astype(np.uint8))


def log_mel(waveform: np.ndarray, rate: int) -> np.ndarray:
    """(BANDS, WIDTH) decibels: 0 is a sine of full scale in all channels. Columns are spread evenly over the sound."""
    mono = waveform.mean(axis=0).astype(np.float64)
    size = 2 ** max(6, round(math.log2(WINDOW_SECONDS * rate)))
    windows = min(MOST_WINDOWS, max(1, math.ceil(len(mono) / WIDTH / (size / 2))))
    starts = ((np.arange(WIDTH * windows) + 0.5) * len(mono) / (WIDTH * windows)).astype(int)
    padded, window = np.pad(mono, size // 2), np.hanning(size + 1)[:-1]
    power = np.zeros((WIDTH, size // 2 + 1))
    for places in starts.reshape(WIDTH, windows).T:
        pieces = padded[places[:, None] + np.arange(size)] * window
        power += (np.abs(np.fft.rfft(pieces)) * 2 / window.sum()) ** 2 / windows
    columns = power @ _mel_filters(rate, size).T
    return 10 * np.log10(np.maximum(columns.T, 1e-12))


def _mel_filters(rate: int, size: int) -> np.ndarray:
    """(BANDS, bins) triangles evenly spaced in mel, each at least a bin wide to either side; a pure tone keeps its level."""
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    centres = 700 * (10 ** (np.linspace(0, highest, BANDS + 2) / 2595) - 1)
    reach = np.maximum(np.diff(centres), rate / size)
    away = frequencies[None, :] - centres[1:-1, None]
    return np.maximum(0, 1 - np.where(away < 0, -away / reach[:-1, None], away / reach[1:, None]))
