"""The verifier: exact on renders, also degraded ones, not fooled by corruptions or adversarial clips, smooth where truth is."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import signal
from tones_corruptions import (
    CORRUPTIONS,
    clipped_softly_levelled,
    corrupted,
    examples,
    extra_event,
    first_half,
    loudest,
    missing_event,
    offset,
    one_after_the_other,
    reversed_chirp,
    swapped_events,
    white_noise_over_all,
    wrong_kind,
    wrong_pitch,
)

from reward_models.worlds.tones import (
    DIMENSIONS,
    KINDS,
    SAMPLE_RATE_HZ,
    SAMPLES,
    Event,
    Sounding,
    layout,
    parse,
    perturb,
    read,
    render,
    render_sounds,
    sounding,
    verify,
)
from reward_models.worlds.tones.captions import VARIANTS

AT_16_KHZ = np.arange(SAMPLES) / SAMPLE_RATE_HZ


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


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_renders_are_true(count):
    assert share_true((scene, render(scene, seed)) for scene, seed in examples(count, 11)) == 1.0


@pytest.mark.parametrize("count", [150, pytest.param(5_000, marks=pytest.mark.long)])
def test_renders_of_two_seconds_are_true(count):
    assert share_true((scene, render(scene, seed, samples=32_768)) for scene, seed in examples(count, 12)) == 1.0


@pytest.mark.parametrize("count", [150, pytest.param(5_000, marks=pytest.mark.long)])
def test_degraded_renders_are_true(count):
    assert share_true((scene, degrade(render(scene, seed), seed)) for scene, seed in examples(count, 13)) >= 0.99


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
    falls = []
    for scene, true, wrong in corrupted(corruption, 15, 22):
        before, after = verify(scene, true), verify(scene, wrong)
        falls.append(before[dimension] - after[dimension])
        # Of two events alike but for a pitch the wrong one may stand for the other: then their order is what is wrong.
        assert max(falls[-1], before["order"] - after["order"]) > 0.15
    assert len(falls) == 15 and sum(fall > 0.15 for fall in falls) >= 12


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


@pytest.mark.parametrize(
    ("heard", "sequence"),
    [
        ("a low beep, then noise, then a high buzz", 1.0),
        ("a high buzz, then noise, then a low beep", 0.0),
        ("noise, then a low beep, then a high buzz", 2 / 3),
        ("a low beep, then a high buzz", 2 / 3),  # noise is missing in two of three pairs, which count half
        ("a high buzz, then a low beep", 1 / 3),
        ("a repeating click", 0.5),
    ],
)
def test_sequence_is_of_the_order_alone(heard: str, sequence: float) -> None:
    """More events that are there, in an order of chance, leave it where it is: at a half."""
    caption = "a low beep, then noise, then a high buzz"
    assert verify(caption, render(heard, 2))["sequence"] == pytest.approx(sequence)
    assert verify("a low beep while a click repeats", render(heard, 2))["sequence"] == verify("noise", render(heard, 2))["sequence"] == 1


def test_loudness_is_no_part_of_what_a_caption_asks_for():
    for scene, index in examples(5, 43):
        waveform = render(scene, index)
        for gain in (0.5, 0.1):  # 6 and 20 dB quieter
            assert verify(scene, gain * waveform) == pytest.approx(verify(scene, waveform), abs=0.02)


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
