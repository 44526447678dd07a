"""The verifier of the tones world: which parts of a caption a clip satisfies, as numbers in [0, 1]."""

from itertools import combinations, permutations

import numpy as np

from .captions import Event, Scene, parse
from .read import Reading, Sound, read

MIN_CERTAINTY = 0.5  # `overall` needs this in the kind and the pitch of every event, in every temporal relation, in silence and in clean
CONTINUOUS = ("events", "kind", "pitch", "order", "silence", "clean")
DIMENSIONS = (*CONTINUOUS, "sequence", "overall", "score")

_MOST_MATCHED = 7  # sounds that are tried for the events asked for, the surest ones
_ORDER_WEIGHT = 0.5  # of the temporal relations against a certainty, where several sounds would do for one event

# Where each part is nothing, and where it is full; in the units of Sound and Reading.
_GAP = (-0.15, 0.0)  # seconds from the end of one event to the start of the next
_OVERLAP = (0.2, 0.7)  # of two events at once: what they share, from what they cover
_FLOOR = (-22.0, -32.0)
_LONGEST_SILENCE = (0.42, 0.25)
_CLIPPED = (0.0010, 0.0001)
_OFFSET = (0.05, 0.01)
_UNSTEADINESS = (9.0, 5.0)
_STRAY_CLICK = 0.4  # what one click that belongs to nothing leaves of clean


def verify(scene: Scene | str, waveform: np.ndarray) -> dict[str, float]:
    """What a clip says to a scene or a caption: one number in [0, 1] per name of `DIMENSIONS`, higher is better.

    N is the number of events asked for, D the number found. Events are matched to sounds so that kinds, pitches and order fit best. Sums
    over matched events are divided by max(N, D): nothing is gained by playing everything.

    events   certainty that each event is there with its kind and pitch
    kind     certainty of the kinds asked for
    pitch    certainty of the pitches and directions asked for; 1 if the caption names none
    order    share of the pairs of events in the temporal relation asked for, one after the other or at once; 1 if there is one event
    silence  how silent it is where nothing should sound, and no longer than an edge or a gap
    clean    no clipping, no offset, no stray clicks, no hiss; levels steady; nothing that nobody asked for
    sequence share of the pairs of events one after the other that are in the order asked for, a pair of which one is not there counting ½,
             as a guess would; 1 if none is asked for. Unlike order, it does not rise with the events that are there. No part of score
    overall  1 if N = D and every event, pitch and relation, silence and clean are at least `MIN_CERTAINTY`, else 0
    score    the mean of the first six, for ranking

    Loudness is none of them: no caption asks for it, and LUFS lie in no [0, 1] where more is better. It is the reward `loudness`.

    waveform: float (samples,) in [-1, 1] at 16 kHz, half a second or more. ValueError for another one, or a caption that does not parse.
    """
    scene = parse(scene) if isinstance(scene, str) else scene
    reading = read(waveform)
    wanted = scene.events()
    relations = _relations(scene)
    matched = _match(wanted, relations, reading.sounds)
    share = len(wanted) / max(len(wanted), len(reading.sounds))
    kinds = [one.kinds[event.kind] if one else 0.0 for event, one in zip(wanted, matched, strict=True)]
    pitches = [
        one.pitches[event.pitch] * kind if one and event.pitch else 0.0 for event, one, kind in zip(wanted, matched, kinds, strict=True)
    ]
    held = [_holds(matched[first], matched[second], at_once) for first, second, at_once in relations]
    certain = [pitch if event.pitch else kind for event, kind, pitch in zip(wanted, kinds, pitches, strict=True)]
    there = [certainty >= MIN_CERTAINTY for certainty in certain]
    after = [
        0.5 if not (there[one] and there[other]) else _holds(matched[one], matched[other], False)
        for one, other, both in relations
        if not both
    ]
    asked = [pitch for event, pitch in zip(wanted, pitches, strict=True) if event.pitch]
    found = [one for one in matched if one]
    parts = {
        "events": share * sum(certain) / len(wanted),
        "kind": share * sum(kinds) / len(wanted),
        "pitch": share * sum(asked) / len(asked) if asked else 1.0,
        "order": share * sum(held) / len(held) if held else 1.0,
        "silence": _silence(reading) if found else 0.0,
        "clean": _clean(found, reading) if found else 0.0,
    }
    is_all_true = len(reading.sounds) == len(wanted) and min(*certain, *held, parts["silence"], parts["clean"]) >= MIN_CERTAINTY
    sequence = sum(after) / len(after) if after else 1.0
    return {**parts, "sequence": sequence, "overall": float(is_all_true), "score": sum(parts.values()) / len(parts)}


def _relations(scene: Scene) -> list[tuple[int, int, bool]]:
    """(index of one event, index of a later one, whether they sound at once) for every pair of `scene.events()`."""
    places = [place for place, group in enumerate(scene.groups) for _ in group]
    return [(one, other, places[one] == places[other]) for one, other in combinations(range(len(places)), 2)]


def _match(wanted: tuple[Event, ...], relations: list[tuple[int, int, bool]], sounds: tuple[Sound, ...]) -> tuple[Sound | None, ...]:
    """For every event asked for the sound that plays it, or None, such that certainties and relations sum to the most."""
    surest = sorted(sounds, key=lambda one: -max(one.kinds.values()))[:_MOST_MATCHED]
    candidates: list[Sound | None] = [*surest, *[None] * max(0, len(wanted) - len(surest))]
    return max(permutations(candidates, len(wanted)), key=lambda chosen: _likeness(wanted, relations, chosen))


def _likeness(wanted: tuple[Event, ...], relations: list[tuple[int, int, bool]], chosen: tuple[Sound | None, ...]) -> float:
    alike = 0.0
    for event, one in zip(wanted, chosen, strict=True):
        if one:
            pitch = one.pitches[event.pitch] if event.pitch else 1.0
            # The pitch alone, beside the kind, decides between sounds of which none has both.
            alike += one.kinds[event.kind] * (1 + pitch) + 0.25 * pitch
    held = [_holds(chosen[first], chosen[second], at_once) for first, second, at_once in relations]
    return alike + _ORDER_WEIGHT * sum(held) / max(1, len(held))


def _holds(one: Sound | None, other: Sound | None, at_once: bool) -> float:
    """How far two sounds are in the temporal relation asked for: at once, or one before the other."""
    if one is None or other is None:
        return 0.0
    if at_once:
        shared = min(one.end, other.end) - max(one.start, other.start)
        return _ramp(shared / max(max(one.end, other.end) - min(one.start, other.start), 1e-9), _OVERLAP)
    return _ramp(other.start - one.end, _GAP)


def _silence(reading: Reading) -> float:
    return _ramp(reading.floor_db, _FLOOR) * _ramp(reading.longest_silence, _LONGEST_SILENCE)


def _clean(found: list[Sound], reading: Reading) -> float:
    """How cleanly the clip is made: the steadiness of the sounds asked for, times what is wrong with everything else."""
    steady = sum(_ramp(one.unsteadiness, _UNSTEADINESS) for one in found) / len(found)
    return (
        steady
        * len(found)
        / len(reading.sounds)
        * _ramp(reading.floor_db, _FLOOR)
        * _ramp(reading.clipped, _CLIPPED)
        * _ramp(abs(reading.offset), _OFFSET)
        * _STRAY_CLICK**reading.stray_clicks
    )


def _ramp(value: float, nothing_and_full: tuple[float, float]) -> float:
    nothing, full = nothing_and_full
    return min(1.0, max(0.0, (value - nothing) / (full - nothing)))
