"""The renderer of the tones world: a scene and a seed become three seconds of sound at 16 kHz, pitch, place, level and timbre jittered."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .captions import DIRECTIONS, KINDS, PITCHES, Event, Scene, parse

SAMPLE_RATE_HZ = 16_000
SAMPLES = 49_152  # 3.072 s, 192 hops of 256
MIN_SAMPLES = 16_000
PITCH_HZ = {"low": (250.0, 350.0), "middle": (700.0, 900.0), "high": (1800.0, 2400.0)}
PEAK = 10 ** (-1 / 20)  # -1 dBFS

_LEVEL_DB = (-24.0, -14.0)  # RMS
_LEVEL_UNDER_CLICKS_DB = (-24.0, -18.0)
_NOISE_UNDER_TONE_DB = (-11.0, -8.0)  # RMS of the noise, from the tone that it sounds with
_CLICK_PEAK_DB = (-7.0, -3.0)
_CLICKS_PER_SECOND = (5.4, 7.0)
_CLICK_DECAY = 0.0035  # seconds to 1/e
_EDGE = (0.08, 0.20)  # seconds of silence at either end
_GAP = (0.12, 0.20)  # seconds of silence between events
_SILENCE_SHARE = 0.36  # of a clip at most: in short clips, edges and gaps shrink
_CHIRP_LOWEST_HZ = (350.0, 600.0)
_CHIRP_OCTAVES = (1.4, 2.2)
_ATTACK, _RELEASE = (0.015, 0.035), (0.030, 0.060)  # seconds
_HIGHEST_HZ = 7600.0
_SQUARE_BELOW_HZ = 1200.0


@dataclass(frozen=True)
class Sounding:
    """One event of a clip.

    kind: a name of `KINDS`. start, end: seconds. level_db: RMS dBFS, of a click the peak. hz, end_hz: frequency at the start and at the
    end; of a click, its clicks per second. timbre: in [0, 1], what else differs between two of a kind: the harmonics of a buzz, the tilt of
    a noise. seed: of the noise and of the edges.
    """

    kind: str
    start: float
    end: float
    level_db: float
    hz: float = 0.0
    end_hz: float = 0.0
    timbre: float = 0.0
    seed: int = 0


def render(scene: Scene | str, seed: int, samples: int = SAMPLES) -> np.ndarray:
    """The sound of a scene, or of a caption, as float32 (samples,) in [-1, 1] at 16 kHz; deterministic in its arguments.

    It plays `layout(scene, seed, samples)`. ValueError for a caption that does not parse, or fewer than `MIN_SAMPLES`.
    """
    return render_sounds(layout(scene, seed, samples), samples)


def layout(scene: Scene | str, seed: int, samples: int = SAMPLES) -> tuple[Sounding, ...]:
    """What the clip of a scene, or of a caption, plays when, in the order of the scene's events; deterministic in its arguments.

    The events fill the clip but for short silences before, between and after them. What the scene leaves open is random. ValueError for a
    caption that does not parse, or fewer than `MIN_SAMPLES`.
    """
    scene = parse(scene) if isinstance(scene, str) else scene
    if samples < MIN_SAMPLES:
        raise ValueError(f"{samples!r} samples are too few for a clip; give {MIN_SAMPLES} or more")
    rng = np.random.default_rng([seed, 0x70])
    placed: list[Sounding] = []
    for group, (start, end) in zip(scene.groups, _places(len(scene.groups), samples / SAMPLE_RATE_HZ, rng), strict=True):
        tone = sounding(group[0], start, end, rng)
        if len(group) == 1:
            placed.append(tone)
            continue
        other = sounding(group[1], start, end, rng)
        if other.kind == "click":
            placed += [_at_level(tone, float(rng.uniform(*_LEVEL_UNDER_CLICKS_DB))), other]
        else:
            tone = _at_level(tone, max(tone.level_db, -20.0))
            placed += [tone, _at_level(other, tone.level_db + float(rng.uniform(*_NOISE_UNDER_TONE_DB)))]
    return tuple(placed)


def sounding(event: Event, start: float, end: float, rng: np.random.Generator) -> Sounding:
    """An event from `start` to `end` seconds, everything else about it at random."""
    level, timbre, seed = float(rng.uniform(*_LEVEL_DB)), float(rng.random()), int(rng.integers(2**31))
    first = last = 0.0
    if event.kind in ("beep", "buzz"):
        first = last = float(rng.uniform(*PITCH_HZ[event.pitch or PITCHES[int(rng.integers(3))]]))
    elif event.kind == "chirp":
        first = float(rng.uniform(*_CHIRP_LOWEST_HZ))
        last = first * 2 ** float(rng.uniform(*_CHIRP_OCTAVES))
        if (event.pitch or DIRECTIONS[int(rng.integers(2))]) == "falling":
            first, last = last, first
    elif event.kind == "click":
        level = float(rng.uniform(*_CLICK_PEAK_DB))
        first = last = max(float(rng.uniform(*_CLICKS_PER_SECOND)), 2.05 / (end - start - 0.025))  # three clicks at least
    return Sounding(event.kind, start, end, level, first, last, timbre, seed)


def _at_level(one: Sounding, level_db: float) -> Sounding:
    return Sounding(one.kind, one.start, one.end, level_db, one.hz, one.end_hz, one.timbre, one.seed)


def _places(count: int, seconds: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """The start and end of each of `count` groups, in seconds."""
    silences = np.array([rng.uniform(*_EDGE), *rng.uniform(*_GAP, size=count - 1), rng.uniform(*_EDGE)])
    silences *= min(1.0, _SILENCE_SHARE * seconds / silences.sum())
    lengths = rng.uniform(0.8, 1.2, size=count)
    lengths *= (seconds - silences.sum()) / lengths.sum()
    starts = np.cumsum(silences[:-1]) + np.concatenate([[0.0], np.cumsum(lengths[:-1])])
    return [(float(start), float(start + length)) for start, length in zip(starts, lengths, strict=True)]


def render_sounds(sounds: Sequence[Sounding], samples: int = SAMPLES) -> np.ndarray:
    """The sum of sounds wherever they are, float32 (samples,), turned down as a whole where its peak would exceed -1 dBFS.

    Sounds may overlap; what lies beyond the clip is cut off. ValueError for an unknown kind or an event without length.
    """
    clip = np.zeros(samples)
    for one in sounds:
        if one.kind not in KINDS:
            raise ValueError(f"unknown kind of sound {one.kind!r}; choose one of: {', '.join(KINDS)}")
        if not one.end > one.start >= 0:
            raise ValueError(f"a {one.kind} from {one.start!r} to {one.end!r} s has no length; give 0 <= start < end")
        first = round(one.start * SAMPLE_RATE_HZ)
        part = _wave(one, round((one.end - one.start) * SAMPLE_RATE_HZ))[: max(0, samples - first)]
        clip[first : first + len(part)] += part
    return (clip * min(1.0, PEAK / max(float(abs(clip).max()), 1e-9))).astype(np.float32)


def _wave(one: Sounding, samples: int) -> np.ndarray:
    """The samples of one event, its edges softened."""
    rng = np.random.default_rng([one.seed, KINDS.index(one.kind)])
    if one.kind == "click":
        return _clicks(one, samples, rng)
    time = np.arange(samples) / SAMPLE_RATE_HZ
    if one.kind == "noise":
        wave = _coloured_noise(samples, one.timbre, rng)
    else:
        # An exponential sweep; its phase is the integral of the frequency.
        growth = math.log(one.end_hz / one.hz) / (samples / SAMPLE_RATE_HZ)
        cycles = one.hz * (np.expm1(growth * time) / growth if abs(growth) > 1e-9 else time)
        wave = _harmonics(one, cycles) if one.kind == "buzz" else np.sin(2 * np.pi * cycles)
    wave *= 10 ** (one.level_db / 20) / np.sqrt((wave**2).mean())
    for seconds, is_end in ((rng.uniform(*_ATTACK), False), (rng.uniform(*_RELEASE), True)):
        width = min(samples // 2, round(seconds * SAMPLE_RATE_HZ))
        ramp = np.sin(np.pi / 2 * (np.arange(width) + 0.5) / width) ** 2
        part = slice(samples - width, samples) if is_end else slice(0, width)
        wave[part] *= ramp[::-1] if is_end else ramp
    return wave


def _harmonics(one: Sounding, cycles: np.ndarray) -> np.ndarray:
    """A band-limited sawtooth, or, for a timbre over 1/2 and a low or middle pitch, a square wave; both between -6 and -5 dB per octave.

    A high square wave would have one partial beside its first, above 5.4 kHz, where a dull recording has nothing.
    """
    step, slope = (2 if one.timbre > 0.5 and one.hz < _SQUARE_BELOW_HZ else 1), 0.85 + 0.3 * (one.timbre % 0.5)
    turn = np.exp(2j * np.pi * cycles)
    partial, stride = turn.copy(), turn**step
    wave = np.zeros(len(cycles))
    for order in range(1, int(_HIGHEST_HZ / one.hz) + 1, step):
        wave += partial.imag / order**slope
        partial *= stride
    return wave


def _coloured_noise(samples: int, tilt: float, rng: np.random.Generator) -> np.ndarray:
    """Noise over 100 Hz whose power falls by 3 dB per octave times `tilt`."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hz = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ)
    spectrum *= (np.maximum(hz, 100.0) / 1000.0) ** (-tilt / 2) * (hz > 100.0)
    return np.fft.irfft(spectrum, samples)


def _clicks(one: Sounding, samples: int, rng: np.random.Generator) -> np.ndarray:
    """One short bright burst, again and again, `hz` times a second."""
    length = int(6 * _CLICK_DECAY * SAMPLE_RATE_HZ)
    burst = np.diff(rng.standard_normal(length + 1)) * np.exp(-np.arange(length) / (_CLICK_DECAY * SAMPLE_RATE_HZ))
    burst *= 10 ** (one.level_db / 20) / abs(burst).max()
    wave = np.zeros(samples + length)
    for start in np.arange(0, max(1, samples - length), SAMPLE_RATE_HZ / one.hz):
        wave[round(start) : round(start) + length] += burst
    return wave[:samples]
