"""The tones reward model: the reward protocol over the verifier."""

import numpy as np
import pytest
from scipy import signal

from diffalign.data.modalities.audio import Audio as Sound
from reward_models import load_reward
from reward_models.worlds.tones import DIMENSIONS, SAMPLE_RATE_HZ, Tones, prompts, render, verify
from reward_models.worlds.tones.reward import _at_16_khz


class Audio:
    """A stand-in for the handle of a sound."""

    def __init__(self, waveform, sample_rate_hz=SAMPLE_RATE_HZ):
        self.samples, self.sample_rate_hz = np.atleast_2d(waveform).astype(np.float32), sample_rate_hz

    def waveform(self):
        return self.samples


def batch(count):
    texts = [one.text for one in prompts("validation", count, 0)]
    return texts, [Audio(render(text, index)) for index, text in enumerate(texts)]


def test_the_table_knows_it():
    reward = load_reward("tones")
    assert isinstance(reward, Tones)
    assert (reward.name, reward.revision, reward.dimensions) == ("tones", "4", DIMENSIONS)
    assert not reward.groupwise


def test_a_batch_is_its_items_in_order():
    texts, media = batch(8)
    texts[3], texts[7] = texts[7], texts[3]
    scores = Tones()(texts, media)
    assert tuple(scores) == DIMENSIONS
    for index, (text, one) in enumerate(zip(texts, media, strict=True)):
        assert {name: values[index] for name, values in scores.items()} == verify(text, one.samples[0])
    assert scores["overall"] == [float(index not in (3, 7)) for index in range(8)]


def test_an_empty_batch():
    assert Tones()([], []) == {name: [] for name in DIMENSIONS}


def test_channels_are_mixed_by_their_mean():
    waveform = render("a low beep, then noise", 1)
    stereo = Audio(np.stack([1.5 * waveform, 0.5 * waveform]))
    mixed, single = Tones()(["a low beep, then noise"], [stereo]), Tones()(["a low beep, then noise"], [Audio(waveform)])
    assert {name: values[0] for name, values in mixed.items()} == pytest.approx(
        {name: values[0] for name, values in single.items()}, abs=1e-3
    )
    assert mixed["overall"] == [1.0]


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_other_rates_are_resampled(rate):
    texts, media = batch(4)
    resampled = [Audio(signal.resample_poly(one.samples, rate, SAMPLE_RATE_HZ, axis=1), rate) for one in media]
    assert Tones()(texts, resampled)["overall"] == [1.0] * 4


@pytest.mark.parametrize("rate", [22_050, 44_100, 44_101])
def test_the_judge_hears_what_a_model_of_its_rate_encodes(rate):
    sound = Sound.from_waveform(np.random.default_rng(0).uniform(-0.5, 0.5, (2, rate)), rate)
    np.testing.assert_allclose(_at_16_khz(sound, 0)[None], sound.tensor((16_000,), 16_000), atol=1e-6)


def test_clips_of_other_lengths_are_judged_as_they_are():
    text = "a low beep, then noise"
    assert Tones()([text], [Audio(render(text, 2, samples=32_768))])["overall"] == [1.0]
    assert Tones()([text], [Audio(render(text, 2)[:24_576])])["overall"] == [0.0]


def test_refusals():
    _, media = batch(1)
    with pytest.raises(ValueError, match=r"unknown word 'song'.*known words: a, after"):
        Tones()(["a song"], media)
    with pytest.raises(ValueError, match="2 prompts and 1 media"):
        Tones()(["noise", "a beep"], media)
    with pytest.raises(ValueError, match=r"item 1 lasts 0.499 s, too short for an event; give 0.5 s or more"):
        Tones()(["noise", "noise"], [*media, Audio(np.zeros(23_952), 48_000)])
