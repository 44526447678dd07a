"""The verifier: exact on renders, also degraded ones, not fooled by corruptions or adversarial clips, smooth where truth is."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import signal

from reward_models.worlds.tones import (
    DIMENSIONS,
    KINDS,
    PITCHES,
    SAMPLE_RATE_HZ,
    SAMPLES,
    SPLITS,
    Event,
    Sounding,
    layout,
    parse,
    perturb,
    prompts,
    read,
    render,
    render_sounds,
    sounding,
    verify,
)
from reward_models.worlds.tones.captions import VARIANTS
from reward_models.worlds.tones.render import PITCH_HZ

AT_16_KHZ = np.arange(SAMPLES) / SAMPLE_RATE_HZ


def examples(count, seed):
    """(scene, seed of its render), over all tasks and splits."""
    texts = [one.text for split in SPLITS for one in prompts(split, -(-count // len(SPLITS)), seed)]
    return [(parse(text), index) for index, text in enumerate(texts[:count])]


def share_true(pairs):
    """The share of (scene, waveform) that the verifier finds wholly true."""
    results = [verify(scene, waveform)["overall"] for scene, waveform in pairs]
    return sum(results) / len(results)


def degrade(waveform, seed):
    """Duller by a low-pass of 6 kHz, noise 40 dB below the loudest 32 ms, 10 bits."""
    rng = np.random.default_rng(seed)
    taps = signal.firwin(31, 6000, fs=SAMPLE_RATE_HZ)
    dull = signal.fftconvolve(waveform, taps, mode="same")
    noisy = dull + rng.standard_normal(len(dull)) * loudest(waveform) * 10 ** (-40 / 20)
    return (np.rint(noisy * 512) / 512).astype(np.float32)


def loudest(waveform):
    """RMS of the loudest 32 ms."""
    return float(np.sqrt((waveform[: len(waveform) // 512 * 512].reshape(-1, 512) ** 2).mean(axis=1).max()))


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_renders_are_true(count):
    assert share_true((scene, render(scene, seed)) for scene, seed in examples(count, 11)) == 1.0


@pytest.mark.parametrize("count", [150, pytest.param(5_000, marks=pytest.mark.long)])
def test_renders_of_two_seconds_are_true(count):
    assert share_true((scene, render(scene, seed, samples=32_768)) for scene, seed in examples(count, 12)) == 1.0


@pytest.mark.parametrize("count", [150, pytest.param(5_000, marks=pytest.mark.long)])
def test_degraded_renders_are_true(count):
    assert share_true((scene, degrade(render(scene, seed), seed)) for scene, seed in examples(count, 13)) >= 0.99


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


LAYOUTS = (
    missing_event, swapped_events, extra_event, extra_event_at_once, wrong_pitch, reversed_chirp, wrong_kind, beep_for_buzz,
    one_after_the_other, at_once,
)  # fmt: skip


def silent(scene, waveform, rng):
    return np.zeros_like(waveform)


def white_noise_over_all(scene, waveform, rng):
    """20 dB below the loudest 32 ms."""
    return waveform + rng.standard_normal(len(waveform)).astype(np.float32) * loudest(waveform) * 0.1


def clipped_hard(scene, waveform, rng):
    """At a quarter of its peak, then as loud as a clip may be."""
    return np.clip(waveform / abs(waveform).max() * 4, -1, 1).astype(np.float32)


def clipped_softly_levelled(scene, waveform, rng):
    """The same, turned down: no sample is at full scale."""
    return 0.5 * clipped_hard(scene, waveform, rng)


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


def assert_corruption_is_never_true(corruption, count):
    triples = list(corrupted(corruption, count, 21))
    assert len(triples) >= count // 8
    for scene, true, wrong in triples:
        result = verify(scene, wrong)
        assert result["overall"] == 0.0
        assert result["score"] < verify(scene, true)["score"] - 0.04


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda f: f.__name__)
def test_corruptions_are_never_true(corruption):
    assert_corruption_is_never_true(corruption, 24)


@pytest.mark.long
@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda f: f.__name__)
def test_thousands_of_corruptions_are_never_true(corruption):
    assert_corruption_is_never_true(corruption, 5_000)


@pytest.mark.parametrize(
    ("corruption", "dimension"),
    [
        (missing_event, "events"),
        (extra_event, "events"),
        (wrong_kind, "kind"),
        (wrong_pitch, "pitch"),
        (reversed_chirp, "pitch"),
        (swapped_events, "order"),
        (one_after_the_other, "order"),
        (first_half, "silence"),
        (white_noise_over_all, "silence"),
        (clipped_softly_levelled, "clean"),
        (offset, "clean"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_corruption_shows_in_its_dimension(corruption, dimension):
    for scene, true, wrong in corrupted(corruption, 15, 22):
        before, after = verify(scene, true), verify(scene, wrong)
        # Of two events alike but for a pitch the wrong one may stand for the other: then their order is what is wrong.
        assert min(after[dimension] - before[dimension], after["order"] - before["order"]) < -0.15


@pytest.mark.parametrize("count", [40, pytest.param(2_000, marks=pytest.mark.long)])
def test_renders_of_slight_mistakes_are_never_true(count):
    rng = np.random.default_rng(5)
    for scene, index in examples(count, 51):
        for mistakes in perturb(scene).values():
            wrong = mistakes[int(rng.integers(len(mistakes)))]
            assert verify(scene, render(wrong, index))["overall"] == 0.0


def everything_in_turn():
    """Every event of the grammar, one after another."""
    rng = np.random.default_rng(1)
    events = [Event(kind, pitch) for kind in KINDS for pitch in VARIANTS[kind] or (None,)]
    places = 0.05 + 0.3 * np.arange(len(events))
    return render_sounds([sounding(event, start, start + 0.2, rng) for event, start in zip(events, places, strict=True)])


def adversarial():
    rng = np.random.default_rng(0)
    whole = Sounding("noise", 0.1, 2.9, -20.0)
    tones = [replace(whole, kind=kind, hz=hz, end_hz=hz) for kind in ("beep", "buzz") for hz in (300.0, 800.0, 2100.0)]
    rest = [replace(whole, kind="chirp", hz=400.0, end_hz=1600.0), whole, Sounding("click", 0.1, 2.9, -5.0, 6.0, 6.0)]
    noise = rng.standard_normal(SAMPLES)
    impulse = np.zeros(SAMPLES)
    impulse[SAMPLES // 2] = 0.8
    return {
        "blank": np.zeros(SAMPLES),
        "white noise": 0.1 * noise,
        "brown noise": 0.002 * np.cumsum(noise - noise.mean()),
        "faint noise": 1e-5 * noise,
        "everything at once": render_sounds([*tones, *rest]).astype(float),
        "all tones at once": render_sounds(tones).astype(float),
        "everything in turn": everything_in_turn().astype(float),
        "hum": 0.3 * np.sin(2 * np.pi * 60 * AT_16_KHZ),
        "a beep without an end": 0.3 * np.sin(2 * np.pi * 300 * AT_16_KHZ),
        "full scale": np.sign(np.sin(2 * np.pi * 300 * AT_16_KHZ)),
        "offset": np.full(SAMPLES, 0.5),
        "impulse": impulse,
    }


@pytest.mark.parametrize("name", adversarial())
def test_adversarial_clips_score_low_for_every_caption(name):
    waveform = adversarial()[name].astype(np.float32)
    for scene, _ in [*examples(20, 31), *((parse(text), 0) for text in ("noise", "a beep", "a low beep", "a repeating click"))]:
        result = verify(scene, waveform)
        assert result["overall"] == 0.0
        assert result["score"] <= 0.7  # pitch and order are full for a caption that names none, as "noise" does, which is in everything


def test_dimensions_are_numbers_between_0_and_1_and_score_is_the_mean_of_six():
    clips = [*adversarial().values(), *(render(scene, seed) for scene, seed in examples(6, 41))]
    for waveform in clips:
        for scene, _ in examples(4, 42):
            result = verify(scene, waveform.astype(np.float32))
            assert tuple(result) == DIMENSIONS
            assert all(type(value) is float and 0.0 <= value <= 1.0 for value in result.values())
            assert result["score"] == pytest.approx(sum(list(result.values())[:6]) / 6)


def test_dimensions_that_a_caption_does_not_speak_of_are_1():
    result = verify("noise", render("a low beep", 0))
    assert result["pitch"] == result["order"] == 1.0
    assert result["kind"] < 0.01


def test_a_caption_and_its_scene_are_judged_alike():
    waveform = render("a low beep, then noise", 3)
    assert verify("noise after a low beep", waveform) == verify(parse("a low beep, then noise"), waveform)


def beep(hz, start=0.1, end=2.9):
    return Sounding("beep", start, end, -18.0, hz, hz)


def test_pitch_falls_with_the_distance_from_its_class():
    # A quarter of an octave over the class it is half, half an octave over it nothing.
    values = [verify("a low beep", render_sounds([beep(350 * 2 ** (step / 8))]))["pitch"] for step in range(6)]
    assert values == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0, 0.0], abs=0.03)
    overall = [verify("a low beep", render_sounds([beep(hz)]))["overall"] for hz in (200, 220, 250, 350, 400, 430, 500)]
    assert overall == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]


def test_score_falls_as_noise_rises():
    text = "a low beep, then a high buzz"
    waveform, noise = render(text, 3), np.random.default_rng(0).standard_normal(SAMPLES)
    results = [verify(text, (waveform + noise * 10 ** (db / 20)).astype(np.float32)) for db in range(-80, 0, 8)]
    scores = [result["score"] for result in results]
    assert all(after <= before + 0.02 for before, after in pairwise(scores))
    assert scores[0] > 0.99
    assert scores[-1] < 0.35
    overall = [result["overall"] for result in results]
    assert overall == sorted(overall, reverse=True)


def test_order_falls_as_one_event_moves_over_another():
    text = "a low beep, then a high beep"
    starts = (1.5, 1.25, 1.1, 0.8, 0.3)
    results = [verify(text, render_sounds([beep(300.0, 0.3, 1.3), beep(2000.0, start, start + 1.0)])) for start in starts]
    assert results[0]["overall"] == 1.0
    assert not any(result["overall"] for result in results[2:])
    mirrored = verify(text, render_sounds([beep(2000.0, 0.1, 1.3), beep(300.0, 1.5, 2.9)]))
    assert mirrored["order"] == 0.0
    assert mirrored["score"] < results[0]["score"] - 0.15


def test_score_falls_with_every_event_too_many():
    events = [beep(300.0, 0.1, 0.6), beep(800.0, 0.75, 1.1), beep(2000.0, 1.25, 1.6), beep(300.0, 1.75, 2.1), beep(800.0, 2.25, 2.9)]
    results = [verify("a low beep", render_sounds(events[:count])) for count in range(1, 6)]
    for dimension in ("events", "kind"):
        assert [result[dimension] for result in results] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5], abs=0.02)


def test_a_chirp_that_hardly_moves_is_none_and_its_certainty_grows_with_its_rise():
    chirps = [Sounding("chirp", 0.1, 2.9, -18.0, 500.0, 500.0 * 2**rise) for rise in (0, 0.3, 0.6, 1)]
    values = [verify("a rising chirp", render_sounds([chirp]))["kind"] for chirp in chirps]
    assert values[:2] == [0.0, 0.0]
    assert 0.2 < values[2] < 0.6
    assert values[3] > 0.95


def test_reading_says_what_sounds_when():
    for scene, seed in examples(25, 61):
        sounds = layout(scene, seed)
        found = read(render(scene, seed)).sounds
        assert sorted(one.kind for one in found) == sorted(one.kind for one in sounds)
        for one in found:
            nearest = min((each for each in sounds if each.kind == one.kind), key=lambda each, one=one: abs(each.start - one.start))
            assert one.start == pytest.approx(nearest.start, abs=0.05)
            assert one.end == pytest.approx(nearest.end, abs=0.25 if one.kind == "click" else 0.05)
            assert one.kinds[one.kind] > 0.9


def test_reading_reports_floor_silence_clipping_and_offset():
    clean = read(render_sounds([beep(300.0, 0.5, 1.0)]))
    assert clean.floor_db < -60
    assert clean.clipped == clean.stray_clicks == 0
    assert clean.longest_silence == pytest.approx(2.072 / 3.072, abs=0.02)
    assert clean.seconds == pytest.approx(3.072)
    driven = read(np.clip(6 * render_sounds([beep(300.0)]), -0.5, 0.5) + np.float32(0.02))
    assert driven.clipped > 0.2
    assert driven.offset == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize(
    ("waveform", "complaint"),
    [
        (np.zeros(7_999, np.float32), r"float32 \(7999,\); give float \(samples,\), 8000 samples"),
        (np.zeros((1, SAMPLES), np.float32), r"float32 \(1, 49152\)"),
        (np.zeros(SAMPLES, np.int16), r"int16 \(49152,\)"),
        (np.full(SAMPLES, np.nan, np.float32), "not finite"),
    ],
)
def test_other_waveforms_are_refused(waveform, complaint):
    with pytest.raises(ValueError, match=complaint):
        read(waveform)
