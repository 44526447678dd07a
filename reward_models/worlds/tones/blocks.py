"""A segment of the tones world in blocks of 48 ms: where one sound passes into another without a gap, and if a second tone sounds along.

The limits lie between what is measured on 500 renders before and after two mel codecs, and on renders with such a second sound. What they
leave unheard: a tone that lies on a partial of a buzz, or within a sixth of an octave of a high beep; 9 dB below, a chirp along with a
buzz, and a buzz in noise; a beep that becomes a chirp, or a chirp a beep, where the other ends, for models' chirps begin flat; a chirp
of less than 0.3 s, or noise of less than 0.2 s, that another sound passes into. After a codec, one tone in five that is 9 dB below a buzz
(45 of 210), and 3 of 138 that are 6 dB below it; over other sounds 1 of 334 and none of 202.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .spectrum import BIN_HZ, around, around_in, bins, cumulative, decibels, strongest

_FRAMES = 6  # of a block, 48 ms
_FEWEST_FRAMES = 4  # of a block beside clicks, else it is left out if there are others
_LONGER = 16  # frames of a block of noise, 128 ms
_HIGHEST_HZ = 7600.0

# Share of a block's power around its strongest partial: tones have 0.53 and more, noise 0.35 in two blocks in succession at most.
_TONE_SHARE, _NOISE_SHARE = 0.50, 0.38
# Partials 2 to 4 over the first: a buzz has -16 dB and more, a beep, also one with noise, -22 dB at most.
_MANY_DB, _FEW_DB = -17.5, -20.5
_WIDE, _WIDE_SHARE = 0.35, 0.8  # of the frequency; the share that a fast chirp has so near, if not within the reach of a partial
_JUMP = 0.75  # octaves from block to block: a chirp has 0.45 at most, from one pitch class to another it is 1
_SHORTEST = 2  # blocks in succession that are a sound of their own
_HARDLY_QUIETER = 0.25  # power

_SECOND_HZ = (150.0, 3700.0)
_FIRST_REACH, _CHIRP_REACH = (130.0, 0.10), (130.0, 0.17)  # Hz, or share of the frequency, on either side of the first partial: its own
_HARMONIC_REACH = (90.0, 0.18)  # the same of the other partials of a buzz, as shares of the first frequency
_HARMONIC_FALL, _HARMONIC_HEADROOM_DB = 1.7, 16.0  # partials of a buzz fall with this power of their order at least
_NOISE_HZ = (150.0, 4500.0)  # recordings may have nothing above


@dataclass(frozen=True)
class Blocks:
    """A stretch of sound, block by block.

    at      first frame (blocks,) of each
    power   (blocks, 257)
    sums    (blocks, 258) its `cumulative`
    hz      (blocks,) frequency of the strongest partial
    share   (blocks,) of the power around it
    """

    at: np.ndarray
    power: np.ndarray
    sums: np.ndarray
    hz: np.ndarray
    share: np.ndarray

    def between(self, start: int, end: int) -> Blocks:
        """Those that begin from frame `start` to before frame `end`."""
        if start <= self.at[0] and self.at[-1] < end:
            return self
        inside = (self.at >= start) & (self.at < end)
        return Blocks(self.at[inside], self.power[inside], self.sums[inside], self.hz[inside], self.share[inside])


def blocks(power: np.ndarray, frames: np.ndarray) -> Blocks:
    """The blocks of some frames, an increasing (n,) of one or more, of a clip's power (all frames, 257)."""
    firsts = np.flatnonzero(np.diff(frames // _FRAMES, prepend=-1))
    sizes = np.diff(firsts, append=len(frames))
    means = np.add.reduceat(power[frames], firsts, axis=0) / sizes[:, None]
    if (sizes >= _FEWEST_FRAMES).any():
        firsts, means = firsts[sizes >= _FEWEST_FRAMES], means[sizes >= _FEWEST_FRAMES]
    hz = strongest(means)
    sums = cumulative(means)
    return Blocks(frames[firsts], means, sums, hz, around_in(sums, hz) / np.maximum(sums[:, -1], 1e-10))


def turns(found: Blocks) -> list[int]:
    """The frames at which one sound passes into another: noise into a tone, few partials into many, one pitch into another."""
    sums = found.sums
    wide = around_in(sums, found.hz, _WIDE * found.hz) / np.maximum(sums[:, -1], 1e-10)
    is_tone = (found.share >= _TONE_SHARE) | (wide >= _WIDE_SHARE)
    is_noise = ~is_tone & (found.share <= _NOISE_SHARE)
    harmonics = _harmonics_db(found, sums)
    kinds = np.where(
        is_noise, "noise", np.where(is_tone & (harmonics > _MANY_DB), "many", np.where(is_tone & (harmonics < _FEW_DB), "few", ""))
    )
    octaves = np.log2(found.hz)
    runs: list[list[int]] = []  # of the blocks that are alike, those that are neither left out
    for index in np.flatnonzero(kinds != "").tolist():
        last = runs[-1][-1] if runs else None
        if last is not None and _alike(kinds, octaves, last, index):
            runs[-1].append(index)
        else:
            runs.append([index])
    kept: list[list[int]] = []
    for run in runs:
        if len(run) >= _SHORTEST and not (kept and _alike(kinds, octaves, kept[-1][-1], run[0])):
            kept.append(run)
        elif len(run) >= _SHORTEST:
            kept[-1] += run
    return [int(found.at[run[0]]) for run in kept[1:]]


def overlap(found: Blocks, turn: int) -> tuple[int, int]:
    """By how many frames the tone after a turn begins before it, and the tone before it ends after it: where both are hardly quieter."""
    index = int(np.searchsorted(found.at, turn))
    before, after = max(0, index - 3), min(len(found.at) - 1, index + 2)
    if abs(np.log2(found.hz[after] / found.hz[before])) < _JUMP or min(found.share[[before, after]]) < _NOISE_SHARE:
        return 0, 0
    laps = []
    for one, blocks_on in ((after, found.power[:index][::-1]), (before, found.power[index:])):
        level = around(blocks_on, np.full(len(blocks_on), found.hz[one]))
        is_there = level > _HARDLY_QUIETER * around(found.power[one : one + 1], found.hz[one : one + 1])
        laps.append(max(0, int(np.argmin(np.append(is_there, False))) - 1) * _FRAMES)  # the first holds both in any case
    return laps[0], laps[1]


def _alike(kinds: np.ndarray, octaves: np.ndarray, one: int, other: int) -> bool:
    return bool(kinds[one] == kinds[other] and (kinds[one] == "noise" or abs(octaves[one] - octaves[other]) < _JUMP))


def _harmonics_db(found: Blocks, sums: np.ndarray) -> np.ndarray:
    """Per block the partials at 2, 3 and 4 times its frequency, each over what lies beside it, from the one at its frequency."""
    reach = np.maximum(BIN_HZ, 0.08 * found.hz)
    at = {half: around_in(sums, half / 2 * found.hz, reach) for half in range(2, 10)}
    higher = np.zeros(len(found.hz))
    for order in (2, 3, 4):
        below, above = at[2 * order - 1], at[2 * order + 1]
        beside = np.where((order + 0.5) * found.hz < _HIGHEST_HZ, (below + above) / 2, below)
        higher += np.where(order * found.hz < _HIGHEST_HZ, np.maximum(0.0, at[2 * order] - beside), 0.0)
    return decibels(higher / np.maximum(at[2], 1e-10))


def beside_a_tone(found: Blocks, kind: str) -> tuple[float, float]:
    """(dB from the tone's first partial, Hz) of the strongest partial that is not the tone's, the median over the blocks.

    Where a partial of a buzz may be, only what exceeds the strongest that it may have counts, and counts as so much less.
    """
    inside = bins(*_SECOND_HZ)
    hz = np.arange(found.power.shape[1])[inside] * BIN_HZ
    first = found.hz[:, None]
    wide, reach = _CHIRP_REACH if kind == "chirp" else _FIRST_REACH
    others = np.where(abs(hz - first) > np.maximum(wide, reach * first), _of_three(found.power, inside), 0.0)
    others = others / np.maximum(around_in(found.sums, found.hz), 1e-10)[:, None]
    if kind == "buzz":
        order = np.maximum(1.0, np.rint(hz / first))
        wide, reach = _HARMONIC_REACH
        own = 10 ** (_HARMONIC_HEADROOM_DB / 10) * order**-_HARMONIC_FALL
        others = np.where(abs(hz - order * first) <= np.maximum(wide, reach * first), others / own, others)
    return _median_peak(others, hz)


def beside_noise(power: np.ndarray) -> tuple[float, float]:
    """(dB from the noise there, Hz) of the strongest partial in noise, the median over blocks. power: (frames, 257), one or more."""
    inside, whole = bins(*_SECOND_HZ), bins(*_NOISE_HZ)
    octaves = np.log2(np.arange(power.shape[1])[whole])
    levels = np.log2(np.maximum(power.mean(axis=0)[whole], 1e-12))
    # The spectrum of coloured noise is a straight line; a tenth of it may be tones.
    slope, level = np.polyfit(octaves, levels, 1)
    over = levels - slope * octaves - level
    is_noise = over < np.quantile(over, 0.9)
    slope, level = np.polyfit(octaves[is_noise], levels[is_noise], 1)
    bin_numbers = np.arange(power.shape[1])[inside]
    noise = 3.0 * 2.0 ** (slope * np.log2(bin_numbers) + level)
    firsts = np.arange(0, max(1, len(power) - _LONGER + 1), _LONGER)
    means = np.add.reduceat(power, firsts, axis=0) / np.diff(firsts, append=len(power))[:, None]
    return _median_peak(_of_three(means, inside) / noise, bin_numbers * BIN_HZ)


def _median_peak(others: np.ndarray, hz: np.ndarray) -> tuple[float, float]:
    peaks = others.argmax(axis=1)
    return float(decibels(np.median(others.max(axis=1)))), float(np.median(hz[peaks]))


def _of_three(power: np.ndarray, inside: slice) -> np.ndarray:
    """The sum (blocks, bins) of every bin of `inside` and its two neighbours."""
    first, last = inside.start, inside.stop
    return power[:, first - 1 : last - 1] + power[:, first:last] + power[:, first + 1 : last + 1]
