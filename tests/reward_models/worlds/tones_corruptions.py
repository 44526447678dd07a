"""Ways to spoil a true clip of the tones world, each by itself: other sounds in other places, or another waveform.

Each returns the spoiled sounds or waveform, or None where it does not apply to the scene.
"""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np

from reward_models.worlds.tones import (
    KINDS,
    PITCHES,
    SAMPLE_RATE_HZ,
    SAMPLES,
    SPLITS,
    Event,
    layout,
    parse,
    prompts,
    render_sounds,
    sounding,
)
from reward_models.worlds.tones.render import PITCH_HZ


def examples(count, seed):
    """(scene, seed of its render), over all tasks and splits."""
    texts = [one.text for split in SPLITS for one in prompts(split, -(-count // len(SPLITS)), seed)]
    return [(parse(text), index) for index, text in enumerate(texts[:count])]


def loudest(waveform):
    """RMS of the loudest 32 ms."""
    return float(np.sqrt((waveform[: len(waveform) // 512 * 512].reshape(-1, 512) ** 2).mean(axis=1).max()))


def free_gap(sounds):
    """The start and end of a place after the last event, made by pressing all events together, and the pressed events."""
    scale = 0.72
    pressed = [replace(one, start=one.start * scale, end=one.end * scale) for one in sounds]
    last = max(one.end for one in pressed)
    return last + 0.12, SAMPLES / SAMPLE_RATE_HZ - 0.1, pressed


def like(one, rng, kind=None, pitch=None):
    """A sound in the place of another, of a kind and pitch, or any."""
    kind = kind or str(rng.choice(KINDS))
    return sounding(Event(kind, pitch), one.start, one.end, rng)


def pitch_class(one):
    return next(pitch for pitch, (low, high) in PITCH_HZ.items() if low <= one.hz <= high)


def missing_event(scene, sounds, rng):
    index = int(rng.integers(len(sounds)))
    return [one for place, one in enumerate(sounds) if place != index]


def swapped_events(scene, sounds, rng):
    """The first and the last group in each other's places."""
    if len(scene.groups) == 1 or scene.groups[0] == scene.groups[-1]:
        return None
    first, last = scene.groups[0], scene.groups[-1]
    if all(a.kind == b.kind and (a.pitch == b.pitch or None in (a.pitch, b.pitch)) for a, b in zip(first, last)) and len(first) == len(
        last
    ):
        return None  # a beep before a low beep may be the same the other way round
    place = {"start": sounds[0].start, "end": sounds[0].end}, {"start": sounds[-1].start, "end": sounds[-1].end}
    head, tail = sounds[: len(first)], sounds[len(sounds) - len(last) :]
    middle = sounds[len(first) : len(sounds) - len(last)]
    return [*(replace(one, **place[1]) for one in head), *middle, *(replace(one, **place[0]) for one in tail)]


def extra_event(scene, sounds, rng):
    """One more after the last, of another kind than that."""
    start, end, pressed = free_gap(sounds)
    others = [kind for kind in KINDS if kind not in {event.kind for event in scene.groups[-1]}]
    return [*pressed, sounding(Event(str(rng.choice(others))), start, end, rng)]


def extra_event_at_once(scene, sounds, rng):
    """Clicks or noise over a lone tone."""
    lone = [group[0] for group in scene.groups if len(group) == 1]
    tones = [one for one in sounds if one.kind in ("beep", "chirp", "buzz") and sum(one.start == other.start for other in sounds) == 1]
    if not lone or not tones:
        return None
    one = tones[int(rng.integers(len(tones)))]
    if one.kind == "buzz" or rng.random() < 0.5:
        return [*sounds, like(one, rng, "click")]
    return [*sounds, replace(like(one, rng, "noise"), level_db=one.level_db - 9.0)]


def wrong_pitch(scene, sounds, rng):
    asked = [index for index, event in enumerate(scene.events()) if event.pitch in PITCHES]
    if not asked:
        return None
    index = int(rng.choice(asked))
    other = str(rng.choice([pitch for pitch in PITCHES if pitch != pitch_class(sounds[index])]))
    hz = float(rng.uniform(*PITCH_HZ[other]))
    return [replace(one, hz=hz, end_hz=hz) if place == index else one for place, one in enumerate(sounds)]


def reversed_chirp(scene, sounds, rng):
    asked = [index for index, event in enumerate(scene.events()) if event.kind == "chirp" and event.pitch]
    if not asked:
        return None
    return [replace(one, hz=one.end_hz, end_hz=one.hz) if place == asked[0] else one for place, one in enumerate(sounds)]


def wrong_kind(scene, sounds, rng):
    index = int(rng.integers(len(sounds)))
    one = sounds[index]
    kind = str(rng.choice([kind for kind in KINDS if kind != one.kind]))
    both_pitched = {one.kind, kind} == {"beep", "buzz"}
    other = replace(one, kind=kind) if both_pitched else like(one, rng, kind)
    return [other if place == index else one for place, one in enumerate(sounds)]


def beep_for_buzz(scene, sounds, rng):
    """Every beep a buzz and every buzz a beep."""
    swap = {"beep": "buzz", "buzz": "beep"}
    changed = [replace(one, kind=swap.get(one.kind, one.kind)) for one in sounds]
    return changed if changed != list(sounds) else None


def one_after_the_other(scene, sounds, rng):
    if scene.task != "together":
        return None
    changed = list(sounds)
    for index, (one, other) in enumerate(pairwise(sounds)):
        if one.start == other.start:
            middle = (one.start + one.end) / 2
            changed[index] = replace(one, end=middle - 0.06)
            changed[index + 1] = replace(other, start=middle + 0.06, level_db=max(other.level_db, -20.0))
    return changed


def at_once(scene, sounds, rng):
    """The first two events of a sequence in one place, in a way that the grammar knows from other scenes."""
    if not scene.task.startswith("order") or {sounds[0].kind, sounds[1].kind} not in (
        {"beep", "click"},
        {"chirp", "click"},
        {"buzz", "click"},
    ):
        return None
    start, end = sounds[0].start, sounds[1].end
    return [replace(sounds[0], start=start, end=end), replace(sounds[1], start=start, end=end), *sounds[2:]]


def lone_sounds(sounds, kinds=("beep", "buzz", "chirp", "noise")):
    """The indices of what sounds alone and is one of `kinds`."""
    return [index for index, one in enumerate(sounds) if one.kind in kinds and sum(one.start == other.start for other in sounds) == 1]


def is_apart(one, other):
    """Whether the second of two sounds at once is a tone of its own: of another pitch class, or a buzz beside a beep, on no partial."""
    if "chirp" in (one.kind, other.kind) or one.kind == "noise":
        return True
    if one.kind == "buzz":
        beside = abs(other.hz - max(1, round(other.hz / one.hz)) * one.hz)
        return pitch_class(one) != pitch_class(other) and beside > max(110.0, 0.2 * one.hz)
    if pitch_class(one) == "high":
        return abs(other.hz - one.hz) > 0.15 * one.hz
    return pitch_class(one) != pitch_class(other) or (other.kind == "buzz" and abs(other.hz - one.hz) > 30.0)


def second_tone(scene, sounds, rng, below_db):
    """A beep, a buzz or a chirp, so much quieter, over what sounds alone."""
    lone = lone_sounds(sounds)
    if not lone:
        return None
    one = sounds[int(rng.choice(lone))]
    # The low partials of a quiet buzz drown in dark noise, and a quiet chirp passes from partial to partial of a buzz.
    unheard = {"chirp": "chirp", **({"noise": "buzz", "buzz": "chirp"} if below_db > 6.0 else {})}.get(one.kind)
    kind = str(rng.choice([kind for kind in ("beep", "buzz", "chirp") if kind != unheard]))
    other = like(one, rng, kind)
    while not is_apart(one, other):
        other = like(one, rng, kind)
    return [*sounds, replace(other, level_db=one.level_db - below_db)]


def second_tone_3_db_below(scene, sounds, rng):
    return second_tone(scene, sounds, rng, 3.0)


def second_tone_6_db_below(scene, sounds, rng):
    return second_tone(scene, sounds, rng, 6.0)


def second_tone_9_db_below(scene, sounds, rng):
    return second_tone(scene, sounds, rng, 9.0)


def pitch_change(scene, sounds, rng):
    """The last fifth to half of a lone beep or buzz in another pitch class."""
    lone = lone_sounds(sounds, ("beep", "buzz"))
    if not lone:
        return None
    one = sounds[int(rng.choice(lone))]
    turn = one.end - float(rng.uniform(0.2, 0.5)) * (one.end - one.start)
    hz = float(rng.uniform(*PITCH_HZ[str(rng.choice([pitch for pitch in PITCHES if pitch != pitch_class(one)]))]))
    return [*(replace(each, end=turn) if each is one else each for each in sounds), replace(one, start=turn, hz=hz, end_hz=hz)]


def goes_on(before, after):
    """Whether one is a beep and the other a chirp that passes into it without a jump: a limit, for models' chirps begin flat."""
    return {before.kind, after.kind} == {"beep", "chirp"} and abs(math.log2(after.hz / before.end_hz)) <= 0.85


def adjoining_event(scene, sounds, rng):
    """200 to 350 ms of a beep, a buzz or noise, of another kind or pitch class, before or after a lone event, without a gap."""
    lone = [index for index in lone_sounds(sounds) if sounds[index].end - sounds[index].start > 0.45]
    if not lone:
        return None
    one, seconds = sounds[int(rng.choice(lone))], float(rng.uniform(0.20, 0.35))
    is_before = rng.random() < 0.5
    turn = one.start + seconds if is_before else one.end - seconds
    kept, place = (replace(one, start=turn), replace(one, end=turn)) if is_before else (replace(one, end=turn), replace(one, start=turn))
    kinds = [kind for kind in ("beep", "buzz", "noise") if kind != one.kind or kind in ("beep", "buzz")]
    while True:
        other = like(place, rng, str(rng.choice(kinds)))
        is_same = other.kind == one.kind and pitch_class(other) == pitch_class(one)
        if not is_same and not goes_on(*((other, kept) if is_before else (kept, other))):
            return [*(kept if each is one else each for each in sounds), other]


def short_beep_in_a_gap(scene, sounds, rng):
    """A beep of 60 to 100 ms between two events, or after the last."""
    start, _, pressed = free_gap(sounds)
    seconds = float(rng.uniform(0.06, 0.10))
    gaps = [(one.end, other.start) for one, other in pairwise(pressed) if other.start - one.end > seconds + 0.06] or [(start, start + 0.4)]
    before, after = gaps[int(rng.integers(len(gaps)))]
    middle = (before + after) / 2
    return [*pressed, sounding(Event("beep"), middle - seconds / 2, middle + seconds / 2, rng)]


LAYOUTS = (
    missing_event, swapped_events, extra_event, extra_event_at_once, wrong_pitch, reversed_chirp, wrong_kind, beep_for_buzz,
    one_after_the_other, at_once, second_tone_3_db_below, second_tone_6_db_below, second_tone_9_db_below, pitch_change, adjoining_event,
    short_beep_in_a_gap,
)  # fmt: skip


def silent(scene, waveform, rng):
    return np.zeros_like(waveform)


def white_noise_over_all(scene, waveform, rng):
    """20 dB below the loudest 32 ms."""
    return waveform + rng.standard_normal(len(waveform)).astype(np.float32) * loudest(waveform) * 0.1


def clipped_hard(scene, waveform, rng):
    """At a quarter of its peak, then as loud as a clip may be; None where that is the peak of clicks alone, which no one hears."""
    loud = waveform / abs(waveform).max() * 4
    return None if (abs(loud) > 1).mean() < 0.02 else np.clip(loud, -1, 1).astype(np.float32)


def clipped_softly_levelled(scene, waveform, rng):
    """The same, turned down: no sample is at full scale."""
    clipped = clipped_hard(scene, waveform, rng)
    return None if clipped is None else 0.5 * clipped


def time_reversed(scene, waveform, rng):
    return None if may_be_reversed(scene) else waveform[::-1].copy()


def may_be_reversed(scene):
    """Whether a clip played backwards can still be true to the scene."""
    turned = {"rising": "falling", "falling": "rising"}
    pairs = [
        (one, replace(other, pitch=turned.get(other.pitch, other.pitch)))
        for group, mirror in zip(scene.groups, scene.groups[::-1])
        for one, other in zip(group, mirror)
    ]
    sizes = [len(group) for group in scene.groups]
    return sizes == sizes[::-1] and all(a.kind == b.kind and (a.pitch == b.pitch or None in (a.pitch, b.pitch)) for a, b in pairs)


def first_half(scene, waveform, rng):
    """The second half is silent."""
    return np.where(np.arange(len(waveform)) < len(waveform) // 2, waveform, 0.0).astype(np.float32)


def second_half(scene, waveform, rng):
    return np.where(np.arange(len(waveform)) < len(waveform) // 2, 0.0, waveform).astype(np.float32)


def offset(scene, waveform, rng):
    return waveform + np.float32(0.06)


WAVEFORMS = (
    silent, white_noise_over_all, clipped_hard, clipped_softly_levelled, time_reversed, first_half, second_half, offset,
)  # fmt: skip
CORRUPTIONS = (*LAYOUTS, *WAVEFORMS)


def corrupted(corruption, count, seed):
    """(scene, true waveform, corrupted waveform) for those of the examples that the corruption applies to, up to `count`."""
    found = 0
    for scene, index in examples(6 * count, seed):
        sounds, rng = layout(scene, index), np.random.default_rng([index, seed])
        true = render_sounds(sounds)
        if corruption in LAYOUTS:
            wrong = corruption(scene, sounds, rng)
            wrong = None if wrong is None else render_sounds(wrong)
        else:
            wrong = corruption(scene, true, rng)
        if wrong is not None:
            yield scene, true, wrong
            found += 1
        if found == count:
            return
