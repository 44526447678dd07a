"""Reads a clip of the tones world back: which sounds it plays, when, and how cleanly.

Clicks are short peaks of broad power. Whatever lasts longer than a click is a segment; where one sound passes into another without a gap it
is cut, and each piece is read as a tone, noise, or both, with a second tone if one sounds along.
Made for clips that a model or a codec made: blurred in time, with invented phases, a warbling noise and weak partials of their own.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import ndimage

from .blocks import Blocks, beside_a_tone, beside_noise, blocks, overlap, turns
from .captions import DIRECTIONS, KINDS, PITCHES
from .render import PITCH_HZ
from .spectrum import FRAMES_PER_SECOND, HOP, Stretch, broad_level, decibels, describe, power_spectrogram

MIN_SAMPLES = 8_000
_SUSTAINED = 13  # frames, 104 ms: what is shorter is no segment
_BELOW_LOUDEST_DB = 22.0  # where a segment begins and ends
_CLICK_HEADROOM_DB = 10.0  # how much louder than a segment clicks are before segments are sought beneath them
_QUIETEST_DB = -62.0  # dBFS; nothing below is a sound
_BRIDGE = 5  # frames of silence, 40 ms, that do not end a segment
_AROUND_A_SEGMENT = 4  # frames on either side that are no silence either
_TRIM, _TRIM_BLOCKS = 3, 1  # frames left out at either end of a segment when it is described, when it is seen in blocks
_CLICK_REACH = 11  # frames, 88 ms, within which a click stands out on either side
_CLICK_PROMINENCE_DB = (4.0, 7.0)  # none, full
_CLICK_BELOW_LOUDEST_DB = 24.0
_CLICK_BELOW_LEVEL_DB = 17.0  # the partials of a low buzz widen where it begins and ends, to 24 dB below it at most
_CLICK_WIDTH = 5  # frames on either side of a click that belong to it
_CLICK_SPACING = 0.27  # seconds at most between clicks of one train
_SURE_CLICKS = 3  # clicks that make a train for certain
_CLICK_TAIL_DB = 12.0  # what lies so far below clicks and is no tone is their tails
_FEWEST_FRAMES = 5  # between clicks, for a description without them
_SHORT_REACH = 4  # frames on either side of its loudest that a sound too short for a segment is taken to last
_AT_AN_END = 2  # frames, 16 ms
_CUT_CERTAINTY = 0.4  # of a sound that an end of the clip cuts off
_LEAST_CERTAINTY = 0.25  # of a tone or noise in a segment that also holds the other

# Where each part of a certainty is nothing, and where it is full; in the units of Stretch.
_FOREIGN = (0.36, 0.20)
_RISE = (0.4, 0.9)
_STRAIGHT = (0.6, 0.9)
_CONCENTRATED = (0.35, 0.6)
_COMB = (0.25, 0.5)
_MANY_DB, _MANY_SPREAD_DB = -22.0, 1.5
_HISS, _HISS_IN_BUZZ = (-26.0, -19.0), (-5.0, -2.0)
_PITCH_MISSED = (0.5, 0.0)  # octaves
# Tones of 60 to 100 ms stand out by 18 dB and have all their power in one partial; 1,650 renders, decoded or not, have no such peak.
_SHORT_HEADROOM_DB = 6.0  # over where a segment begins: faint remains of a model are no beeps
_SHORT_PROMINENCE_DB, _SHORT_CONCENTRATED = (6.0, 10.0), (0.5, 0.7)
# Strongest partial that is not the tone's, from its first: after the codecs -23 dB for beeps and chirps, -14.4 for buzzes, -12.3 beside
# noise. In noise, from the noise: 3.3 dB after the codecs and before. A second tone 9 dB below has -17, -10.8 and 4.4 dB at least.
_BESIDE_TONE_DB, _BESIDE_BUZZ_DB, _BESIDE_BOTH_DB = (-21.0, -17.0), (-12.0, -8.0), (-10.0, -6.0)
_OVER_NOISE_DB = (3.8, 5.0)

_CLIPPED_RUN = 3  # equal extreme samples in a row
_FULL_SCALE = 0.999


@dataclass(frozen=True)
class Sound:
    """One sound found in a clip.

    kind         the likeliest of `KINDS`
    start, end   seconds
    kinds        certainty in [0, 1] per kind
    pitches      certainty in [0, 1] per pitch class, and per direction of a chirp
    level_db     dBFS RMS, of clicks the loudest 32 ms
    unsteadiness standard deviation of its level in dB
    is_cut       whether it touches an end of the clip
    """

    kind: str
    start: float
    end: float
    kinds: dict[str, float]
    pitches: dict[str, float]
    level_db: float
    unsteadiness: float
    is_cut: bool


@dataclass(frozen=True)
class Reading:
    """A whole clip: its sounds in the order of their starts, and what is not a sound.

    seconds: its length. floor_db: level between the sounds, from the loudest 32 ms. longest_silence: share of the clip. stray_clicks:
    how many clicks belong to no train. clipped: share of samples in flat runs at the extreme. offset: mean of the samples.
    """

    sounds: tuple[Sound, ...]
    seconds: float
    floor_db: float
    longest_silence: float
    stray_clicks: int
    clipped: float
    offset: float


def read(waveform: np.ndarray) -> Reading:
    """The sounds of a clip and what lies between them. waveform: float (samples,), half a second or more at 16 kHz; else ValueError."""
    if waveform.ndim != 1 or len(waveform) < MIN_SAMPLES or not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(f"waveform is {waveform.dtype} {waveform.shape}; give float (samples,), {MIN_SAMPLES} samples at 16 kHz or more")
    if not np.isfinite(waveform).all():
        raise ValueError("waveform holds samples that are not finite; give numbers from -1 to 1")
    power = power_spectrogram(waveform - waveform.mean())
    level = decibels(power.sum(axis=1))
    loudest = float(level.max())
    clicks = _clicks(power, level) if loudest > _QUIETEST_DB else []
    trains, strays = _trains(clicks)
    segments, threshold = _segments(level, loudest)
    sounds = [_train_sound(train, level) for train in trains]
    for start, end in segments:
        sounds += _segment_sounds(power, start, end, clicks)
    sounds += _short_sounds(power, level, segments, clicks, threshold)
    sounds.sort(key=lambda one: one.start)
    return Reading(
        sounds=tuple(sounds),
        seconds=len(waveform) / (HOP * FRAMES_PER_SECOND),
        floor_db=_floor(level, segments, clicks) - loudest,
        longest_silence=_longest_silence(sounds, len(level)),
        stray_clicks=strays,
        clipped=_clipped(waveform),
        offset=float(waveform.mean()),
    )


def _clicks(power: np.ndarray, level: np.ndarray) -> list[tuple[int, float]]:
    """(frame, certainty) of every click: a peak of broad power that stands out on both sides."""
    broad = ndimage.uniform_filter1d(broad_level(power), 3)
    padded = np.pad(broad, _CLICK_REACH, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, _CLICK_REACH + 1)
    before, after = around[: len(broad)].min(axis=1), around[_CLICK_REACH:][: len(broad)].min(axis=1)
    prominence = broad - np.maximum(before, after)
    is_peak = broad >= ndimage.maximum_filter1d(broad, 9)
    is_loud = broad > np.maximum(level - _CLICK_BELOW_LEVEL_DB, max(float(level.max()) - _CLICK_BELOW_LOUDEST_DB, _QUIETEST_DB))
    is_click = is_peak & is_loud & (prominence > _CLICK_PROMINENCE_DB[0])
    return [(int(frame), _ramp(float(prominence[frame]), _CLICK_PROMINENCE_DB)) for frame in np.flatnonzero(is_click)]


def _trains(clicks: list[tuple[int, float]]) -> tuple[list[list[tuple[int, float]]], int]:
    """Clicks that repeat, and how many do not."""
    trains: list[list[tuple[int, float]]] = []
    for click in clicks:
        if trains and click[0] - trains[-1][-1][0] <= _CLICK_SPACING * FRAMES_PER_SECOND:
            trains[-1].append(click)
        else:
            trains.append([click])
    return [train for train in trains if len(train) > 1], sum(len(train) == 1 for train in trains)


def _train_sound(train: list[tuple[int, float]], level: np.ndarray) -> Sound:
    certainty = sum(each for _, each in train) / len(train) * min(1.0, len(train) / _SURE_CLICKS)
    frames = [frame for frame, _ in train]
    return Sound(
        kind="click",
        start=frames[0] / FRAMES_PER_SECOND,
        end=(frames[-1] + 2) / FRAMES_PER_SECOND,
        kinds={kind: certainty * (kind == "click") for kind in KINDS},
        pitches=dict.fromkeys((*PITCHES, *DIRECTIONS), 0.0),
        level_db=float(level[frames].max()),
        unsteadiness=0.0,
        is_cut=False,
    )


def _segments(level: np.ndarray, loudest: float) -> tuple[list[tuple[int, int]], float]:
    """First and last frame (exclusive) of every stretch that sounds for longer than a click, and the level in dBFS from which it does."""
    lasting = ndimage.grey_opening(level, _SUSTAINED, mode="nearest")
    threshold = max(max(float(lasting.max()), loudest - _CLICK_HEADROOM_DB) - _BELOW_LOUDEST_DB, _QUIETEST_DB)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], lasting > threshold, [0]]).astype(int)))
    found: list[tuple[int, int]] = []
    for start, end in zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True):
        if found and start - found[-1][1] <= _BRIDGE:
            start = found.pop()[0]
        found.append((start, end))
    return found, threshold


def _short_sounds(
    power: np.ndarray, level: np.ndarray, segments: list[tuple[int, int]], clicks: list[tuple[int, float]], threshold: float
) -> list[Sound]:
    """Tones too short for a segment: peaks of the level outside segments and clicks, most of their power around one frequency."""
    is_peak = (level >= ndimage.maximum_filter1d(level, 9)) & (level > threshold + _SHORT_HEADROOM_DB)
    taken = [*segments, *((max(0, frame - _CLICK_WIDTH), frame + _CLICK_WIDTH + 1) for frame, _ in clicks)]
    for start, end in taken:
        is_peak[start:end] = False
    found = []
    for frame in np.flatnonzero(is_peak).tolist():
        near = level[max(0, frame - _CLICK_REACH) : frame + _CLICK_REACH + 1]
        middle = min(frame, _CLICK_REACH)
        prominence = float(level[frame] - max(near[: middle + 1].min(), near[middle:].min()))
        start, end = max(0, frame - _SHORT_REACH), min(len(power), frame + _SHORT_REACH + 1)
        certainty = _ramp(prominence, _SHORT_PROMINENCE_DB)
        peak = describe(power[max(0, frame - 1) : frame + 2]) if certainty >= _LEAST_CERTAINTY else None
        if peak and (certainty := certainty * _ramp(peak.concentration, _SHORT_CONCENTRATED)) >= _LEAST_CERTAINTY:
            found.append(_sound({"beep": certainty}, peak, start, end, is_cut=False))
    return found


def _segment_sounds(power: np.ndarray, start: int, end: int, clicks: list[tuple[int, float]]) -> list[Sound]:
    """What sounds from frame `start` to frame `end` beside clicks, one sound after another where it turns."""
    found = blocks(power, _away_from(clicks, np.arange(start + _TRIM_BLOCKS, end - _TRIM_BLOCKS)))  # a segment has 13 frames or more
    pieces: list[tuple[int, list[Sound]]] = []
    for first, last in pairwise([start, *turns(found), end]):
        sounds = _piece_sounds(power, first, last, clicks, found.between(first, last), last - first == end - start)
        if pieces and len(pieces[-1][1]) == len(sounds) and all(map(_is_one, pieces[-1][1], sounds)):
            first, _ = pieces.pop()
            sounds = _piece_sounds(power, first, last, clicks, found.between(first, last), last - first == end - start)
        pieces.append((first, sounds))
    joined: list[Sound] = []
    for first, sounds in pieces:
        sooner, later = (frames / FRAMES_PER_SECOND for frames in (overlap(found, first) if first > start else (0, 0)))
        before = [one for one in joined if sounds and one.end < sounds[0].start <= one.end + 2 / FRAMES_PER_SECOND]
        for one in sounds:
            same = next((other for other in before if _is_one(other, one)), None)
            if same is not None:
                before.remove(same)
                joined.remove(same)
                one = replace(one if max(one.kinds.values()) > max(same.kinds.values()) else same, start=same.start, end=one.end)
            joined.append(one if same is not None else replace(one, start=one.start - sooner))
        for one in before:
            joined[joined.index(one)] = replace(one, end=one.end + later)
    return joined


def _is_one(before: Sound, after: Sound) -> bool:
    """Whether two sounds without a gap are one, beside which others may begin and end: noise, or beeps or buzzes in one pitch class."""
    is_same_pitch = any(min(before.pitches[pitch], after.pitches[pitch]) > 0.5 for pitch in PITCHES)
    return before.kind == after.kind and (before.kind == "noise" or (before.kind != "chirp" and is_same_pitch))


def _away_from(clicks: list[tuple[int, float]], frames: np.ndarray) -> np.ndarray:
    """Those of some frames that belong to no click; all where next to none do not."""
    is_free = np.ones(len(frames), dtype=bool)
    for frame, _ in clicks:
        is_free &= abs(frames - frame) > _CLICK_WIDTH
    return frames[is_free] if is_free.sum() >= _FEWEST_FRAMES else frames


def _piece_sounds(
    power: np.ndarray, start: int, end: int, clicks: list[tuple[int, float]], parts_of: Blocks, is_whole: bool
) -> list[Sound]:
    """What sounds from frame `start` to frame `end` beside clicks: a tone, noise, both, another tone along, or the tails of clicks alone.

    is_whole: whether that is a whole segment; else what tone there is in noise is that of the piece before or after, which fades.
    """
    free = _away_from(clicks, np.arange(start + _TRIM, end - _TRIM))
    if not len(free):
        return []
    found = describe(power[free])
    tones, noise = _tone_certainties(found), _noise_certainty(found)
    is_tone = max(tones.values()) >= _LEAST_CERTAINTY
    loudest_click = max(
        (float(decibels(power[frame].sum())) for frame, _ in clicks if start - _CLICK_WIDTH < frame < end + _CLICK_WIDTH), default=-math.inf
    )
    if not is_tone and found.level_db < loudest_click - _CLICK_TAIL_DB:
        return []  # the tails of clicks run into each other
    parts = [tones] if is_tone else []
    if noise >= _LEAST_CERTAINTY or not parts:
        parts.append({"noise": noise, **({} if parts else tones)})
    is_cut = start <= _AT_AN_END or end >= len(power) - _AT_AN_END
    sounds = [_sound(part, found, start, end, is_cut) for part in parts]
    second, hz = _second_tone(tones, noise, power[free], parts_of) if is_whole or is_tone else (0.0, found.hz)
    if second >= _LEAST_CERTAINTY:
        sounds.append(_sound({"beep": second}, replace(found, hz=hz, rise=0.0), start, end, is_cut))
    return sounds


def _second_tone(tones: dict[str, float], noise: float, power: np.ndarray, parts_of: Blocks) -> tuple[float, float]:
    """The certainty that a tone sounds along with the tone or the noise of a piece, and its frequency in Hz."""
    kind = max(tones, key=tones.__getitem__)
    if tones[kind] < _LEAST_CERTAINTY:
        if noise < _LEAST_CERTAINTY:
            return 0.0, 1.0
        over_db, hz = beside_noise(power)
        return _ramp(over_db, _OVER_NOISE_DB), hz
    if not len(parts_of.at):
        return 0.0, 1.0
    over_db, hz = beside_a_tone(parts_of, kind)
    limits = _BESIDE_BOTH_DB if noise >= _LEAST_CERTAINTY else _BESIDE_BUZZ_DB if kind == "buzz" else _BESIDE_TONE_DB
    return _ramp(over_db, limits), hz


def _sound(part: dict[str, float], found: Stretch, start: int, end: int, is_cut: bool) -> Sound:
    whole = _CUT_CERTAINTY if is_cut else 1.0
    kinds = {kind: whole * part.get(kind, 0.0) for kind in KINDS}
    return Sound(
        kind=max(kinds, key=kinds.__getitem__),
        start=start / FRAMES_PER_SECOND,
        end=(end - 1) / FRAMES_PER_SECOND,
        kinds=kinds,
        pitches={**_pitch_certainties(found.hz), **_direction_certainties(found)},
        level_db=found.level_db,
        unsteadiness=found.unsteadiness,
        is_cut=is_cut,
    )


def _tone_certainties(found: Stretch) -> dict[str, float]:
    """Certainty of each tonal kind: how steady its partials are, whether there are many, and how much power is not theirs."""
    hiss = 10 ** (min(found.hiss_db, 0.0) / 10)
    pure = _ramp(1 - found.concentration - hiss, _FOREIGN)
    glides = _ramp(abs(found.rise), _RISE) * _ramp(found.straightness, _STRAIGHT) * _ramp(found.concentration, _CONCENTRATED)
    steady = (1 - glides) * _ramp(found.comb, _COMB)
    many = 1 / (1 + math.exp((_MANY_DB - found.harmonics_db) / _MANY_SPREAD_DB))
    return {"beep": steady * (1 - many) * pure, "buzz": steady * many * _ramp(1 - found.comb, _FOREIGN), "chirp": glides * pure}


def _noise_certainty(found: Stretch) -> float:
    """Certainty that noise sounds: hiss beside a beep or chirp is noise, but a buzz has partials up there, and a codec blurs them."""
    is_buzz = found.harmonics_db > _MANY_DB and found.comb > _COMB[0]
    return _ramp(found.hiss_db, _HISS_IN_BUZZ if is_buzz else _HISS)


def _pitch_certainties(hz: float) -> dict[str, float]:
    """Certainty of each pitch class: 1 within it, 1/2 a quarter of an octave beside it."""
    beside = {pitch: max(math.log2(low / hz), math.log2(hz / high), 0.0) for pitch, (low, high) in PITCH_HZ.items()}
    return {pitch: _ramp(octaves, _PITCH_MISSED) for pitch, octaves in beside.items()}


def _direction_certainties(found: Stretch) -> dict[str, float]:
    sure = _ramp(abs(found.rise), _RISE)
    return {"rising": sure * (found.rise > 0), "falling": sure * (found.rise < 0)}


def _floor(level: np.ndarray, segments: list[tuple[int, int]], clicks: list[tuple[int, float]]) -> float:
    """The level in dBFS that three quarters of the frames away from every sound stay below; of the loudest frame where none are."""
    is_silent = np.ones(len(level), dtype=bool)
    for start, end in segments:
        is_silent[max(0, start - _AROUND_A_SEGMENT) : end + _AROUND_A_SEGMENT] = False
    for frame, _ in clicks:
        is_silent[max(0, frame - _CLICK_WIDTH - 1) : frame + _CLICK_WIDTH + 2] = False
    return float(np.percentile(level[is_silent], 75) if is_silent.any() else level.max())


def _longest_silence(sounds: list[Sound], frames: int) -> float:
    """The longest part of a clip of so many frames in which nothing sounds, as a share of it."""
    seconds, reached, longest = frames / FRAMES_PER_SECOND, 0.0, 0.0
    for one in sounds:
        longest, reached = max(longest, one.start - reached), max(reached, one.end)
    return max(longest, seconds - reached) / seconds


def _clipped(waveform: np.ndarray) -> float:
    """The share of samples in flat runs at the extreme of the clip, or at full scale."""
    size = abs(waveform)
    is_extreme = (size >= _FULL_SCALE * float(size.max())) | (size >= _FULL_SCALE)
    runs = ndimage.binary_opening(is_extreme, np.ones(_CLIPPED_RUN, dtype=bool))
    return float(np.count_nonzero(runs)) / len(waveform) if size.max() > 0 else 0.0


def _ramp(value: float, none_and_full: tuple[float, float]) -> float:
    none, full = none_and_full
    return min(1.0, max(0.0, (value - none) / (full - none)))
