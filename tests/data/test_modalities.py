"""Images: write → read, identity, and everything a file from a stranger can be."""

import struct
import sys
import zlib
from copy import copy
from io import BytesIO

import numpy as np
import PIL.Image
import pytest
from decoded import watch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffalign.data.modalities import MODALITIES, Media, media_class, modality_of
from diffalign.data.modalities.audio import Audio
from diffalign.data.modalities.image import MAX_PIXELS, Image
from diffalign.data.modalities.video import Video

PIXELS = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)


def encode(picture: PIL.Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format=form, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A valid PNG of this size whose data are a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", MODALITIES)
def test_every_modality_has_its_class(name):
    assert issubclass(media_class(name), object)
    assert {"encoded", "identity", "to_row"} <= set(dir(media_class(name)))


@pytest.mark.parametrize(
    ("made", "shape"),
    [
        (Image.from_pixels(PIXELS), (4, 4)),
        (Video.from_frames(np.stack([PIXELS] * 3), 8.0), (2, 4, 4)),
        (Audio.from_waveform(np.zeros((1, 900)), 8000), (800,)),
    ],
    ids=list(MODALITIES),
)
def test_what_a_model_takes_is_decoded_once_and_not_kept(made, shape, monkeypatch):
    decoded = watch(monkeypatch, modality_of(made))
    item = type(made).from_bytes(made.encoded())
    assert item.tensor(shape, None).shape[1:] == shape
    assert (len(decoded.arrays), decoded.alive) == (1, 0)
    np.testing.assert_array_equal(item.tensor(shape, None), made.tensor(shape, None))


@pytest.mark.parametrize(("name", "read"), [("image", "pixels"), ("video", "frames"), ("audio", "waveform")])
def test_a_copy_keeps_what_it_decodes_to_itself(name, read, monkeypatch):
    made = {"image": Image.from_pixels(PIXELS), "video": Video.from_frames(np.stack([PIXELS] * 3), 8.0)}
    item = made.get(name, Audio.from_waveform(np.zeros((1, 900)), 8000))
    decoded = watch(monkeypatch, name)
    stored = type(item).from_bytes(item.encoded())
    twin = copy(stored)
    np.testing.assert_array_equal(getattr(twin, read)(), getattr(item, read)())
    assert len(decoded.arrays) == decoded.alive == 1
    del twin
    assert decoded.alive == 0


def test_unknown_modality_names_the_known():
    with pytest.raises(ValueError, match=r"unknown modality 'smell'; choose one of: image, video, audio"):
        media_class("smell")


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_write_read_keeps_pixels_and_identity(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.from_pixels(pixels)
    again = Image.from_row(image.to_row())
    assert isinstance(again, Media)
    assert again.size == image.size == (width, height)
    np.testing.assert_array_equal(again.pixels(), pixels)
    assert again.identity() == image.identity()


def test_identity_is_of_content_not_of_the_file():
    png, bmp = encode(PIL.Image.fromarray(PIXELS)), encode(PIL.Image.fromarray(PIXELS), "BMP")
    assert png != bmp
    assert Image.from_bytes(png).identity() == Image.from_bytes(bmp).identity()
    flat = np.zeros((2, 6, 3), np.uint8)
    assert Image.from_pixels(flat).identity() != Image.from_pixels(flat.reshape(3, 4, 3)).identity()


def test_bytes_and_files_stay_as_they_are(tmp_path):
    data = encode(PIL.Image.fromarray(PIXELS), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    assert Image.from_bytes(data).encoded() == data
    image = Image.from_path(tmp_path / "a.jpg")
    assert image.to_row() == {"bytes": data, "path": "a.jpg"}
    assert image.size == (4, 5)


def test_decoding_is_lazy_and_happens_once(monkeypatch):
    calls = []
    import diffalign.data.modalities.image as module

    original = module._to_rgb
    monkeypatch.setattr(module, "_to_rgb", lambda picture: calls.append(1) or original(picture))
    image = Image.from_bytes(encode(PIL.Image.fromarray(PIXELS)))
    assert image.size == (4, 5)
    assert not calls
    image.pixels()
    image.pixels()
    image.identity()
    assert len(calls) == 1


def test_transparency_is_laid_over_white():
    layer = np.zeros((1, 2, 4), np.uint8)
    layer[0, 1] = (10, 20, 30, 255)
    assert Image.from_bytes(encode(PIL.Image.fromarray(layer))).pixels().tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_sixteen_bit_grey_is_scaled():
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert Image.from_bytes(encode(PIL.Image.fromarray(grey))).pixels()[0, :, 0].tolist() == [0, 1, 128, 255]


def test_exif_orientation_is_applied_to_size_and_pixels():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90°
    image = Image.from_bytes(encode(PIL.Image.fromarray(PIXELS), "PNG", exif=exif))
    assert image.size == (5, 4)
    np.testing.assert_array_equal(image.pixels(), np.rot90(PIXELS, k=-1))


def test_an_animation_gives_its_first_frame():
    frames = [PIL.Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    image = Image.from_bytes(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert image.pixels()[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("side", [MAX_PIXELS, 10_000, 50_000], ids=["line", "89 to 179 million", "above Pillow's own limit"])
def test_decompression_bomb_is_refused_from_its_header(side):
    image = Image.from_bytes(png_header(side, side if side < MAX_PIXELS else 2), name="row 7")
    for read in (image.pixels, image.identity, image.check, lambda: image.size):
        with pytest.raises(ValueError, match=r"'row 7' unpacks to more than 64,000,000 pixels .*scale it down or drop the row"):
            read()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@settings(deadline=None, max_examples=40)
@given(cut=st.floats(0.05, 0.8))
def test_truncated_images_are_value_errors(form, cut):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(PIL.Image.fromarray(noise), form)
    with pytest.raises(ValueError, match=r"'half' .*(truncated or corrupt|cannot be read).*drop the row"):
        Image.from_bytes(data[: int(len(data) * cut)], name="half").pixels()


@settings(deadline=None, max_examples=40)
@given(
    st.binary(min_size=1, max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBPVP8 "]),
)
def test_garbage_is_a_value_error(data, magic):
    with pytest.raises(ValueError, match="drop the row"):
        Image.from_bytes(magic + data).check()


def test_formats_that_start_programs_are_not_opened():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\nshowpage\n"
    with pytest.raises(ValueError, match="it must be a whole file in one of PNG, JPEG"):
        Image.from_bytes(eps).pixels()


def test_a_file_that_is_no_image_is_not_copied(tmp_path):
    (tmp_path / "secret.png").write_text("password")
    with pytest.raises(ValueError, match=r"secret\.png"):
        Image.from_path(tmp_path / "secret.png").encoded()


def test_missing_and_empty_media():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        Image.from_path("nowhere.png")
    with pytest.raises(ValueError, match="is empty"):
        Image.from_bytes(b"")
    with pytest.raises(ValueError, match="'c1' holds no bytes"):
        Image.from_row({"bytes": None, "path": "/etc/passwd"}, "c1")
    with pytest.raises(ValueError, match="got str"):
        Image.from_bytes("text")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((3, 4, 5), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), [[1]]],
    ids=["channels first", "float", "grey", "empty", "list"],
)
def test_pixels_of_another_kind_are_refused(pixels):
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\), got"):
        Image.from_pixels(pixels)


@pytest.mark.parametrize(("name", "library"), [("video", "av"), ("audio", "soundfile")])
def test_a_missing_decoder_names_its_extra(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{name} needs {library}, which is not installed: pip install 'diffalign\[{name}\]'"):
        media_class(name).from_bytes(b"data").check()
