"""Sounds: write → read, identity, rates, formats, and everything a file from a stranger can be."""

import re
import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import diffalign.data.modalities.audio as module
from diffalign.data.modalities import Media
from diffalign.data.modalities.audio import Audio

WAVE = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 4000)).astype(np.float32)


def make(form: str = "WAV", rate: int = 16_000, wave: np.ndarray = WAVE, **options: str) -> bytes:
    buffer = BytesIO()
    soundfile.write(buffer, wave.T, rate, format=form, **options)
    return buffer.getvalue()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 3000), st.sampled_from([8000, 16_000, 22_050, 44_100, 96_000]), st.integers(0, 2**32 - 1))
def test_write_read_keeps_samples_rate_and_identity(channels: int, samples: int, rate: int, seed: int) -> None:
    audio = Audio.from_waveform(np.random.default_rng(seed).uniform(-1.2, 1.2, (channels, samples)), rate)
    again = Audio.from_row(audio.to_row())
    assert isinstance(again, Media)
    np.testing.assert_array_equal(again.waveform(), audio.waveform())
    assert again.columns == audio.columns == {"samples": samples, "sample_rate_hz": rate, "channels": channels}
    assert again.identity() == audio.identity() == Audio.from_waveform(audio.waveform(), rate).identity()


def test_a_waveform_is_rounded_to_16_bits_and_clipped() -> None:
    found = Audio.from_waveform(np.array([[2.0, 1.0, 0.5, 1e-5, -1.0, -3.0]]), 16_000).waveform() * 32768
    assert found.tolist() == [[32767, 32767, 16384, 0, -32768, -32768]]


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_formats_and_stereo(form: str, tmp_path: Path) -> None:
    data = make(form)
    (tmp_path / "a").write_bytes(data)
    for audio in (Audio.from_bytes(data), Audio.from_path(tmp_path / "a")):
        assert audio.columns == {"samples": 4000, "sample_rate_hz": 16_000, "channels": 2} and audio.seconds == 0.25
        assert audio.encoded() == data
        assert audio.waveform().shape == (2, 4000) and audio.waveform().dtype == np.float32


def test_identity_is_of_content_and_rate_not_of_the_file() -> None:
    whole = np.rint(WAVE * 32768).astype(np.int16)
    wav, flac = make("WAV", wave=whole), make("FLAC", wave=whole)
    assert wav != flac
    assert Audio.from_bytes(wav).identity() == Audio.from_bytes(flac).identity() == Audio.from_waveform(WAVE, 16_000).identity()
    assert Audio.from_bytes(make("WAV", 8000, whole)).identity() != Audio.from_bytes(wav).identity()


def test_tensor_is_the_beginning_in_mono_at_another_rate() -> None:
    time = np.arange(44_100) / 44_100
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    audio = Audio.from_waveform(np.stack([tone, 0.5 * tone]), 44_100)
    assert audio.shape_of(audio.columns, 16_000) == (16_000,) and audio.shape_of(audio.columns, None) == (44_100,)
    found = audio.tensor((8000,), 16_000)
    assert found.shape == (1, 8000) and found.dtype == np.float32
    expected = 0.375 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16_000)
    assert np.abs(found[0, 100:-100] - expected[100:-100]).max() < 2e-3
    np.testing.assert_array_equal(audio.tensor((100,), None)[0], audio.waveform().mean(0)[:100])
    with pytest.raises(ValueError, match=r"lasts 1 s, too short for 17000 samples at 16000 Hz"):
        audio.tensor((17_000,), 16_000)


def test_tensor_of_two_channels_keeps_them_apart() -> None:
    """A low tone on the left, a high one on the right, at another rate; mono is in both; more than two are refused."""
    time = np.arange(8000) / 8000
    left, right = (0.5 * np.sin(2 * np.pi * pitch * time) for pitch in (200, 700))
    stereo, mono = Audio.from_waveform(np.stack([left, right]), 8000), Audio.from_waveform(left[None], 8000)
    np.testing.assert_array_equal(stereo.tensor((100,), None, 2), stereo.waveform()[:, :100])
    found, later = stereo.tensor((16_000,), 16_000, 2), np.arange(16_000) / 16_000
    for channel, pitch in zip(found, (200, 700), strict=True):
        assert np.abs(channel[200:-200] - 0.5 * np.sin(2 * np.pi * pitch * later)[200:-200]).max() < 2e-3
    np.testing.assert_array_equal(mono.tensor((100,), None, 2), np.stack([mono.waveform()[0, :100]] * 2))
    np.testing.assert_array_equal(stereo.tensor((100,), None, 1), stereo.tensor((100,), None))
    wide = Audio.from_waveform(np.stack([left] * 6), 8000)
    for sound, wanted, own in ((wide, 2, 6), (wide, None, 6), (stereo, 3, 2)):
        with pytest.raises(ValueError, match=rf"has {own} channels, and {wanted or 1} are wanted; models take mono or stereo: mix it down"):
            sound.tensor((100,), None, wanted)


@pytest.mark.parametrize("rate, samples, wanted", [(44_100, 44_101, 16_000), (8000, 7, 16_000), (22_050, 1, 16_000)])
def test_shape_of_is_what_resampling_gives(rate: int, samples: int, wanted: int) -> None:
    audio = Audio.from_waveform(np.full((1, samples), 0.1), rate)
    shape = audio.shape_of(audio.columns, wanted)
    assert audio.tensor(shape, wanted).shape == (1, *shape)
    with pytest.raises(ValueError, match="too short"):
        audio.tensor((shape[0] + 1,), wanted)


@pytest.mark.parametrize("own, wanted", [(44_101, 16_000), (16_000, 44_101)])
def test_rates_that_share_no_divisor_are_resampled_in_bounded_memory(own: int, wanted: int) -> None:
    """torchaudio would hold 44,101 × 16,000 weights, 5.6 GB."""
    tone = np.stack([0.5 * np.sin(2 * np.pi * pitch * np.arange(own) / own) for pitch in (440, 2000)]).astype(np.float32)
    tracemalloc.start()
    found = module.resample(tone, own, wanted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (2, wanted) and found.dtype == np.float32 and peak < 200e6
    expected = np.stack([0.5 * np.sin(2 * np.pi * pitch * np.arange(wanted) / wanted) for pitch in (440, 2000)])
    assert np.abs(found - expected)[:, 100:-100].max() < 3e-3


@pytest.mark.parametrize("own, wanted", [(44_100, 16_000), (16_000, 22_050), (48_000, 16_000), (3000, 2000)])
def test_both_ways_of_resampling_are_one_filter(own: int, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = module.resample(WAVE, own, wanted)
    monkeypatch.setattr(module, "LARGEST_KERNEL", 0)
    monkeypatch.setattr(module, "BLOCK_TAPS", 5000)
    np.testing.assert_allclose(module.resample(WAVE, own, wanted), found, atol=3e-5)


@pytest.mark.parametrize("wave", [np.zeros(5), np.zeros((1, 0)), np.zeros((9, 5)), np.zeros((1, 5), np.int16), [0.0]])
def test_other_arrays_are_refused(wave: object) -> None:
    with pytest.raises(ValueError, match=r"a sound is a numpy array of floats \(channels, samples\), 1 to 8 channels, got"):
        Audio.from_waveform(wave, 16_000)  # type: ignore[arg-type]


def test_numbers_and_rates_that_no_file_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="2 samples that are not finite"):
        Audio.from_waveform(np.array([[0.0, np.nan, np.inf]]), 16_000)
    with pytest.raises(ValueError, match="999 samples per second; give 1,000 to 384,000"):
        Audio.from_waveform(WAVE, 999)


CUT = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16")]


@pytest.mark.parametrize("form, subtype", CUT)
@settings(deadline=None, max_examples=25)
@given(cut=st.floats(0.01, 0.99))
def test_truncated_sounds_are_value_errors(form: str, subtype: str, cut: float) -> None:
    data = make(form, wave=np.tile(WAVE, 6), subtype=subtype)
    with pytest.raises(ValueError, match=r"'half' cannot be read .*fetch it again or drop the row"):
        Audio.from_bytes(data[: int(len(data) * cut)], name="half").waveform()


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_cut_between_its_pages_is_refused(subtype: str, tmp_path: Path) -> None:
    data = make("OGG", wave=np.tile(WAVE, 30), subtype=subtype)
    assert Audio.from_bytes(data).waveform().shape == (2, 120_000)
    pages = [found.start() for found in re.finditer(b"OggS", data)]
    (tmp_path / "cut").write_bytes(data[: pages[-1]])
    for audio in (Audio.from_bytes(data[: pages[-1]]), Audio.from_path(tmp_path / "cut"), Audio.from_bytes(data + b"more")):
        with pytest.raises(ValueError, match=r"cannot be read \(it stops before its stream ends\)"):
            _ = audio.columns


@settings(deadline=None, max_examples=25)
@given(st.binary(min_size=1, max_size=300), st.sampled_from([b"", b"RIFF\0\0\0\0WAVEfmt ", b"fLaC", b"OggS", b"ID3"]))
def test_garbage_is_a_value_error(data: bytes, magic: bytes) -> None:
    with pytest.raises(ValueError, match="drop the row"):
        Audio.from_bytes(magic + data).check()


def test_empty_over_long_and_infinite_sounds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'row 1' cannot be read \(it holds no samples"):
        Audio.from_bytes(make(wave=np.zeros((1, 0), np.float32)), name="row 1").waveform()
    broken = WAVE.copy()
    broken[0, 3] = np.nan
    with pytest.raises(ValueError, match="it has samples that are not finite"):
        Audio.from_bytes(make(wave=broken, subtype="FLOAT")).waveform()
    monkeypatch.setattr(module, "MAX_SECONDS", 0.1)
    with pytest.raises(ValueError, match=r"at most 0 s and 230,000,000 samples are read: cut it"):
        _ = Audio.from_bytes(make()).columns


def test_a_row_without_bytes_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="audio 'c1' holds no bytes"):
        Audio.from_row({"path": "/etc/passwd", "bytes": None}, "c1")
    with pytest.raises(FileNotFoundError, match="does not exist or is not a file"):
        Audio.from_path(tmp_path / "none.wav")
    (tmp_path / "secret.wav").write_text("password")
    with pytest.raises(ValueError, match="cannot be read"):
        Audio.from_path(tmp_path / "secret.wav").to_row()
