"""What the first bytes of a file say, by files that the libraries write."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
import soundfile
from tiny_media import flac, mp4, png

from diffalign.data.importers.media import media_of
from diffalign.data.modalities import modality_of
from diffalign.data.modalities.signature import modality_of_file


def picture(form: str, frames: int = 1) -> bytes:
    pictures = [PIL.Image.new("RGB", (4, 4), (60 * index, 0, 0)) for index in range(frames)]
    buffer = BytesIO()
    pictures[0].save(buffer, form, **({"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}))
    return buffer.getvalue()


def sound(form: str, **options: str) -> bytes:
    buffer = BytesIO()
    soundfile.write(buffer, np.linspace(-0.5, 0.5, 4000), 16_000, format=form, **options)
    return buffer.getvalue()


def clip(form: str, codec: str) -> bytes:
    buffer = BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=8)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures(form: str) -> None:
    assert modality_of_file(picture(form), "row") == modality_of(media_of(picture(form), "row")) == "image"


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "AIFF"])
def test_sounds(form: str) -> None:
    assert modality_of_file(sound(form), "row") == modality_of(media_of(sound(form), "row")) == "audio"


@pytest.mark.parametrize(("form", "codec"), [("mp4", "mpeg4"), ("mov", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4")])
def test_clips(form: str, codec: str) -> None:
    assert modality_of_file(clip(form, codec), "row") == modality_of(media_of(clip(form, codec), "row")) == "video"


def test_a_gif_that_moves_is_a_video_and_names_say_nothing(tmp_path: Path) -> None:
    moving = picture("GIF", 3)
    item = media_of(moving, "row")
    assert modality_of(item) == "video" and item.columns["frames"] == 3
    for data, expected in ((moving, "video"), (picture("GIF"), "image"), (mp4(0), "video"), (flac(0), "audio"), (png(0), "image")):
        (tmp_path / "a.png").write_bytes(data)
        assert modality_of_file(tmp_path / "a.png", "row") == modality_of(media_of("a.png", "row", tmp_path)) == expected


@pytest.mark.parametrize("data", [b"text", b"%PDF-1.7", b"\xff\xfet\0e\0", b"RIFF\0\0\0\0ACON", b"\0" * 20])
def test_what_is_no_medium_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"media 'row 3 chosen' cannot be read: its first bytes .* drop the row"):
        modality_of_file(data, "row 3 chosen")
    with pytest.raises(ValueError, match="is empty"):
        media_of(b"", "row 3 chosen")


def test_an_empty_file_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match=r"media 'row' is empty \(0 bytes\); fetch the file again or drop the row"):
        media_of("a.png", "row", tmp_path)
