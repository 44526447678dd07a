"""The renderer of sounds: deterministic, in range, silent where it should be, true to what it is told."""

from dataclasses import replace

import numpy as np
import pytest

from reward_models.worlds.tones import SAMPLE_RATE_HZ, SAMPLES, Sounding, layout, parse, prompts, render, render_sounds
from reward_models.worlds.tones.render import PITCH_HZ

SECONDS = SAMPLES / SAMPLE_RATE_HZ


def peak_hz(waveform):
    spectrum = abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return spectrum.argmax() * SAMPLE_RATE_HZ / len(waveform)


def part(waveform, start, end):
    return waveform[round(start * SAMPLE_RATE_HZ) : round(end * SAMPLE_RATE_HZ)]


def level_db(waveform):
    return 10 * np.log10((waveform.astype(float) ** 2).mean())


def test_a_clip_depends_on_scene_seed_and_length_alone():
    text = "a low beep, then noise"
    first = render(text, 5)
    assert first.dtype == np.float32
    assert first.shape == (SAMPLES,)
    assert np.array_equal(first, render("noise after a low beep", 5))
    assert np.array_equal(first, render(parse(text), 5))
    assert not np.array_equal(first, render(text, 6))
    assert render(text, 5, samples=32_768).shape == (32_768,)


@pytest.mark.parametrize("samples", [SAMPLES, 32_768, 16_128])
def test_events_keep_their_order_and_clips_stay_in_range(samples):
    for seed, one in enumerate(prompts("train", 60, 1)):
        scene = parse(one.text)
        sounds = layout(scene, seed, samples)
        assert [sound.kind for sound in sounds] == [event.kind for event in scene.events()]
        places = sorted({(sound.start, sound.end) for sound in sounds})
        assert len(places) == len(scene.groups)
        edges = [0.0, *(edge for place in places for edge in place), samples / SAMPLE_RATE_HZ]
        silences = np.diff(edges)[::2]
        assert silences.min() >= (0.08 if samples >= 32_768 else 0.02)
        assert max(silences) <= 0.2
        assert np.diff(edges)[1::2].min() >= (0.35 if samples >= 32_768 else 0.15)
        waveform = render(scene, seed, samples)
        assert abs(waveform).max() <= 10 ** (-1 / 20) + 1e-6
        assert abs(float(waveform.mean())) < 0.002
        for before, after in zip(edges[::2], edges[1::2], strict=True):
            assert not part(waveform, before + 1e-3, after - 1e-3).any()


def test_levels_and_pitches_are_those_of_the_layout():
    for seed, text in enumerate(
        ["a low beep", "a middle beep", "a high beep", "a middle buzz", "noise", "a low buzz, then a high beep"] * 5
    ):
        scene = parse(text)
        waveform = render(scene, seed)
        for event, sound in zip(scene.events(), layout(scene, seed), strict=True):
            heard = part(waveform, sound.start + 0.07, sound.end - 0.07)
            assert -24.3 <= sound.level_db <= -13.7
            assert level_db(heard) == pytest.approx(sound.level_db, abs=0.7)
            if event.pitch:
                low, high = PITCH_HZ[event.pitch]
                assert low <= sound.hz <= high
                assert peak_hz(heard) == pytest.approx(sound.hz, abs=2)


def test_what_a_caption_leaves_open_varies():
    pitches = [layout("a beep", seed)[0].hz for seed in range(40)]
    assert {name for name, (low, high) in PITCH_HZ.items() if any(low <= hz <= high for hz in pitches)} == set(PITCH_HZ)
    directions = {layout("a chirp", seed)[0].hz < layout("a chirp", seed)[0].end_hz for seed in range(20)}
    assert directions == {True, False}


@pytest.mark.parametrize(("text", "is_rising"), [("a rising chirp", True), ("a falling chirp", False)])
def test_chirps_go_over_an_octave_and_more_their_way(text, is_rising):
    for seed in range(8):
        (sound,) = layout(text, seed)
        waveform = render(text, seed)
        early, late = (peak_hz(part(waveform, at, at + 0.05)) for at in (sound.start + 0.02, sound.end - 0.09))
        assert abs(np.log2(late / early)) > 1.2
        assert (late > early) == is_rising


def test_clicks_repeat_at_their_rate():
    for seed in range(8):
        (sound,) = layout("a repeating click", seed)
        assert 5.4 <= sound.hz <= 7.0
        loud = abs(render("a repeating click", seed)) > 0.2
        starts = [index for index in np.flatnonzero(loud) if not loud[max(0, index - 800) : index].any()]
        assert len(starts) >= 12
        assert np.diff(starts) == pytest.approx(SAMPLE_RATE_HZ / sound.hz, abs=2)


def test_a_buzz_has_harmonics_and_a_beep_has_none():
    beep = Sounding("beep", 0.1, 1.1, -20.0, 400.0, 400.0)
    heights = {}
    for name, sound in {"beep": beep, "saw": replace(beep, kind="buzz"), "square": replace(beep, kind="buzz", timbre=0.6)}.items():
        spectrum = abs(np.fft.rfft(part(render_sounds([sound]), 0.2, 1.0)))
        heights[name] = [20 * np.log10(spectrum[round(order * 400 * 0.8)] / spectrum[320]) for order in (2, 3, 5)]
    assert max(heights["beep"]) < -60
    assert heights["saw"] == pytest.approx([-20 * 0.85 * np.log10(order) for order in (2, 3, 5)], abs=0.2)
    assert heights["square"][0] < -40
    assert heights["square"][1:] == pytest.approx([-20 * 0.88 * np.log10(order) for order in (3, 5)], abs=0.2)


def test_sounds_overlap_leave_the_clip_and_are_turned_down_together():
    loud = Sounding("beep", 0.2, SECONDS + 1, -1.0, 300.0, 300.0)
    both = render_sounds([loud, replace(loud, kind="buzz")])
    assert both.shape == (SAMPLES,)
    assert abs(both).max() == pytest.approx(10 ** (-1 / 20), abs=1e-6)
    assert not render_sounds([replace(loud, start=4.0, end=5.0)]).any()


@pytest.mark.parametrize(
    ("sound", "complaint"),
    [
        (Sounding("song", 0.0, 1.0, -20.0), "unknown kind of sound 'song'.*beep"),
        (Sounding("noise", 1.0, 1.0, -20.0), "a noise from 1.0 to 1.0 s has no length"),
        (Sounding("noise", -0.1, 1.0, -20.0), "0 <= start < end"),
    ],
)
def test_sounds_that_cannot_be_played_are_refused(sound, complaint):
    with pytest.raises(ValueError, match=complaint):
        render_sounds([sound])


def test_render_refuses_captions_outside_the_grammar_and_clips_too_short():
    with pytest.raises(ValueError, match="unknown word 'song'"):
        render("a song", 0)
    with pytest.raises(ValueError, match="15999 samples are too few"):
        render("noise", 0, samples=15_999)
