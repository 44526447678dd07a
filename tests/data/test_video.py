"""Videos: write → read, identity, rates, and everything a file from a stranger can be."""

from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffalign.data.modalities.video as module
from diffalign.data.modalities import Media
from diffalign.data.modalities.video import Video, encode

FRAMES = np.random.default_rng(0).integers(0, 256, (9, 6, 8, 3), dtype=np.uint8)


def make(form: str = "mp4", codec: str = "libx264rgb", pixels: str = "rgb24", frames: np.ndarray = FRAMES, fps: float = 8.0) -> bytes:
    buffer = BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.options = {"crf": "0"} if "264" in codec else {}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1.0, 8.0, 24.0, 29.97, 60.0]), st.integers(0, 2**32 - 1))
def test_write_read_keeps_frames_rate_and_identity(count: int, height: int, width: int, fps: float, seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    video = Video.from_frames(frames, fps)
    again = Video.from_row(video.to_row())
    assert isinstance(again, Media)
    np.testing.assert_array_equal(again.frames(), frames)
    assert again.columns == video.columns == {"width": width, "height": height, "frames": count, "fps": fps}
    assert again.identity() == video.identity()


def test_identity_is_of_content_and_rate_not_of_the_file() -> None:
    mp4, mkv = make(), make("matroska", "ffv1", "bgr0")
    assert mp4 != mkv
    assert Video.from_bytes(mp4).identity() == Video.from_bytes(mkv).identity() == Video.from_frames(FRAMES, 8).identity()
    assert Video.from_frames(FRAMES, 9).identity() != Video.from_frames(FRAMES, 8).identity()
    assert Video.from_frames(FRAMES.reshape(9, 8, 6, 3), 8).identity() != Video.from_frames(FRAMES, 8).identity()


def test_bytes_and_files_stay_as_they_are(tmp_path: Path) -> None:
    data = make("webm", "libvpx-vp9", "yuv420p")
    (tmp_path / "a.webm").write_bytes(data)
    assert Video.from_bytes(data).encoded() == data
    video = Video.from_path(tmp_path / "a.webm")
    assert video.to_row() == {"bytes": data, "path": "a.webm"}
    assert video.size == (8, 6) and video.fps == 8 and len(video.frames()) == 9


def test_tensor_takes_the_nearest_frames_in_time_and_covers() -> None:
    frames = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None] * 20, (9, 6, 8, 3)).copy()
    video = Video.from_frames(frames, 8)
    assert video.shape_of(video.columns, None) == (9, 6, 8) and video.shape_of(video.columns, 4) == (5, 6, 8)
    assert video.shape_of(video.columns, 16) == (17, 6, 8)  # from the first frame to the last
    halved = video.tensor((5, 6, 8), 4)
    assert halved.shape == (3, 5, 6, 8) and halved.dtype == np.float32
    np.testing.assert_array_equal(halved[0, :, 0, 0], np.arange(0, 180, 40).astype(np.float32) / 127.5 - 1)
    assert video.tensor((9, 3, 4), None).shape == (3, 9, 3, 4)
    with pytest.raises(ValueError, match=r"lasts 1\.12 s, too short for 6 frames at 4 per second"):
        video.tensor((6, 6, 8), 4)


@pytest.mark.parametrize(
    "fps, rate, places",
    [(24, 16, [0, 2, 3, 5, 6, 8, 9, 11]), (8, 16, [0, 1, 1, 2, 2, 3, 3, 4]), (30, 24, [0, 1, 3, 4, 5, 6, 8, 9])],
)
def test_frames_at_another_rate_are_evenly_spaced(fps: float, rate: float, places: list[int]) -> None:
    frames = np.arange(13, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    found = Video.from_frames(frames, fps).tensor((8, 2, 2), rate)
    assert np.rint((found[0, :, 0, 0] + 1) * 127.5).astype(int).tolist() == places


@pytest.mark.parametrize("frames", [np.zeros((2, 3, 4, 3)), np.zeros((3, 4, 3), np.uint8), np.zeros((0, 3, 4, 3), np.uint8), "frames"])
def test_other_arrays_are_refused(frames: object) -> None:
    with pytest.raises(ValueError, match=r"a video is a numpy array uint8 \(T, H, W, 3\), got"):
        Video.from_frames(frames, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize("fps", [0, -1, 1001, float("nan")])
def test_other_rates_are_refused(fps: float) -> None:
    with pytest.raises(ValueError, match="frames per second; give a rate above 0 and up to 1000"):
        Video.from_frames(FRAMES, fps)


def test_files_that_name_other_files_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(make())
    for text in (f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n", f"ffconcat version 1.0\nfile {tmp_path}/secret.mp4\n"):
        with pytest.raises(ValueError, match=r"'row 3' cannot be read .*drop the row"):
            Video.from_bytes(text.encode(), name="row 3").frames()


@settings(deadline=None, max_examples=25)
@given(cut=st.floats(0.02, 0.9))
def test_truncated_videos_are_value_errors(cut: float) -> None:
    data = encode(FRAMES, 8, "libx264rgb", "rgb24", {"crf": "0"})
    with pytest.raises(ValueError, match=r"'half' cannot be read .*fetch it again or drop the row"):
        Video.from_bytes(data[: int(len(data) * cut)], name="half").frames()


@settings(deadline=None, max_examples=25)
@given(st.binary(min_size=1, max_size=300), st.sampled_from([b"", b"\0\0\0 ftypisom", b"\x1aE\xdf\xa3", b"RIFF\0\0\0\0AVI ", b"GIF89a"]))
def test_garbage_is_a_value_error(data: bytes, magic: bytes) -> None:
    with pytest.raises(ValueError, match="drop the row"):
        Video.from_bytes(magic + data).check()


def test_a_bomb_is_refused_while_it_unpacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="it unpacks to more than 100 pixels: cut it or scale it down"):
        Video.from_bytes(make(), name="row 1").frames()


def test_a_row_without_bytes_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="video 'c1' holds no bytes"):
        Video.from_row({"path": "/etc/passwd", "bytes": None}, "c1")
    with pytest.raises(FileNotFoundError, match="does not exist or is not a file"):
        Video.from_path(tmp_path / "none.mp4")
    (tmp_path / "secret.mp4").write_text("password")
    with pytest.raises(ValueError, match="cannot be read"):
        Video.from_path(tmp_path / "secret.mp4").to_row()
