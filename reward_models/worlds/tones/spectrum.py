"""Time and frequency in the tones world: the spectrogram, and what is measured on one stretch of it."""

from dataclasses import dataclass

import numpy as np
from scipy import fft, signal

from .render import SAMPLE_RATE_HZ

WINDOW, HOP = 512, 128  # samples: 32 ms, every 8 ms
FRAMES_PER_SECOND = SAMPLE_RATE_HZ / HOP
BIN_HZ = SAMPLE_RATE_HZ / WINDOW

_TONE_HZ = (180.0, 3500.0)  # where the strongest partial is looked for
_HISS_HZ = (3300.0, 7600.0)  # above every fundamental
_BROAD_HZ = (1500.0, 7600.0)
_SILENT = 1e-10  # power, -100 dBFS


@dataclass(frozen=True)
class Stretch:
    """What one stretch of sound is like.

    hz             frequency of its strongest partial, the median over time
    rise           octaves by which that partial rises from start to end, along a straight line
    straightness   in [0, 1], how well the line fits
    concentration  share of the power within that partial, the median over time
    comb           share of the power at multiples of hz, less what lies halfway between them
    harmonics_db   the partials at 2, 3 and 4 times hz, each over what lies beside it, from the one at hz
    hiss_db        the power that noise as dense as the median bin over 3.3 kHz would have, from the whole
    unsteadiness   standard deviation of its level in dB
    level_db       dBFS RMS
    """

    hz: float
    rise: float
    straightness: float
    concentration: float
    comb: float
    harmonics_db: float
    hiss_db: float
    unsteadiness: float
    level_db: float


def power_spectrogram(waveform: np.ndarray) -> np.ndarray:
    """Power (frames, 257) float32 of a waveform (samples,): the sum of a frame is the mean square under its Hann window."""
    padded = np.pad(waveform.astype(np.float32), WINDOW // 2)
    window = np.asarray(signal.get_window("hann", WINDOW), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    spectrum: np.ndarray = np.asarray(fft.rfft(frames * window, axis=1))
    power = np.real(spectrum) ** 2 + np.imag(spectrum) ** 2
    power[:, 1:-1] *= 2
    return power / np.float32(WINDOW * (window**2).sum())


def decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, _SILENT))


def broad_level(power: np.ndarray) -> np.ndarray:
    """Level (frames,) in dBFS of white noise as dense as the median bin from 1.5 to 7.6 kHz: high for clicks and noise, low for tones."""
    return decibels(np.median(power[:, bins(*_BROAD_HZ)], axis=1) * power.shape[1])


def describe(power: np.ndarray) -> Stretch:
    """The stretch whose frames are `power` (frames, 257), at least one."""
    totals = np.maximum(power.sum(axis=1), _SILENT)
    tracks = strongest(power)
    shares = around(power, tracks) / totals
    rise, straightness = _line(np.log2(tracks), totals * shares)
    hz = float(np.median(tracks))
    mean = power.mean(axis=0)
    comb, harmonics_db = _comb(mean, hz)
    hiss = float(np.median(mean[bins(*_HISS_HZ)])) * len(mean) / max(float(mean.sum()), _SILENT)
    levels = decibels(totals)
    return Stretch(
        hz=hz,
        rise=rise,
        straightness=straightness,
        concentration=float(np.median(shares)),
        comb=comb,
        harmonics_db=harmonics_db,
        hiss_db=float(decibels(np.asarray(hiss))),
        unsteadiness=float(levels.std()),
        level_db=float(decibels(np.asarray(totals.mean()))),
    )


def bins(low_hz: float, high_hz: float) -> slice:
    """The bins from one frequency to another."""
    return slice(round(low_hz / BIN_HZ), round(high_hz / BIN_HZ) + 1)


def strongest(power: np.ndarray) -> np.ndarray:
    """The frequency (frames,) in Hz of the strongest partial, between bins by the centre of its power."""
    inside = bins(*_TONE_HZ)
    smooth = power[:, :-2] + power[:, 1:-1] + power[:, 2:]  # of bins 1 to 255
    best = smooth[:, inside.start - 1 : inside.stop - 1].argmax(axis=1) + inside.start
    around = best[:, None] + np.arange(-1, 2)
    weights = np.take_along_axis(power, around, axis=1) + _SILENT
    return (weights * around).sum(axis=1) / weights.sum(axis=1) * BIN_HZ


def around(power: np.ndarray, hz: np.ndarray, reach: np.ndarray | None = None) -> np.ndarray:
    """The power (frames,) within `reach` Hz (None: 90 Hz, or 8 %) of a frequency per frame."""
    return around_in(cumulative(power), hz, reach)


def cumulative(power: np.ndarray) -> np.ndarray:
    """The power (frames, 258) below every bin, for `around_in`."""
    sums = np.zeros((len(power), power.shape[1] + 1))
    np.cumsum(power, axis=1, out=sums[:, 1:])
    return sums


def around_in(sums: np.ndarray, hz: np.ndarray, reach: np.ndarray | None = None) -> np.ndarray:
    """`around` of the power of which `sums` is the `cumulative`."""
    reach = np.maximum(90.0, 0.08 * hz) if reach is None else reach
    last = sums.shape[1] - 1
    high = np.minimum(last, np.rint((hz + reach) / BIN_HZ).astype(int) + 1)
    low = np.minimum(np.maximum(0, np.rint((hz - reach) / BIN_HZ).astype(int)), high)
    rows = np.arange(len(sums))
    return sums[rows, high] - sums[rows, low]


def _line(octaves: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """By how much a weighted straight line through `octaves` rises, and the share of their variance that it explains.

    Outliers count for less in a second fit. A flat line explains nothing.
    """
    count = len(octaves)
    if count < 3:
        return 0.0, 0.0
    time = np.linspace(-0.5, 0.5, count)
    weights = weights / weights.sum()
    slope = 0.0
    for _ in range(3):
        mean_time, mean = weights @ time, weights @ octaves
        spread = max(float(weights @ (time - mean_time) ** 2), 1e-9)
        slope = float(weights @ ((time - mean_time) * (octaves - mean))) / spread
        residual = octaves - mean - slope * (time - mean_time)
        explained = slope**2 * spread / max(slope**2 * spread + float(weights @ residual**2), 1e-9)
        weights = weights / (1 + (residual / 0.15) ** 2)
        weights = weights / weights.sum()
    return slope, float(explained)


def _comb(mean: np.ndarray, hz: float) -> tuple[float, float]:
    """`Stretch.comb` and `Stretch.harmonics_db` of a mean spectrum (257,)."""
    reach = max(1, round(0.08 * hz / BIN_HZ))
    sums = np.concatenate([[0.0], np.cumsum(mean, dtype=np.float64)])

    def around(centre_hz: float) -> float:
        centre = round(centre_hz / BIN_HZ)
        return float(sums[min(centre + reach + 1, len(mean))] - sums[max(0, min(centre - reach, len(mean)))])

    def beside(order: int) -> float:
        below, above = around((order - 0.5) * hz), (order + 0.5) * hz
        return (below + around(above)) / 2 if above < _HISS_HZ[1] else below

    orders = range(1, int(_HISS_HZ[1] / hz) + 1)
    excess = [max(0.0, around(order * hz) - beside(order)) for order in orders]
    total = max(float(sums[-1]), _SILENT)
    return min(1.0, sum(excess) / total), float(decibels(np.array(sum(excess[1:4]) / max(excess[0], _SILENT))))
