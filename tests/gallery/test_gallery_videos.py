"""Videos as files: every frame is there, in its colours, in even sides, and what is no video is named."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from diffalign.gallery import PairRow, Sample
from diffalign.gallery.write import write_gallery


@dataclass(frozen=True)
class Clip:
    taken: np.ndarray
    fps: float = 8.0

    def frames(self) -> np.ndarray:
        return self.taken


def squares(count: int, height: int, width: int, block: int = 8) -> np.ndarray:
    """Squares of random colours, others in each frame."""
    small = np.random.default_rng(0).integers(20, 236, (count, -(-height // block), -(-width // block), 3), dtype=np.uint8)
    return small.repeat(block, axis=1).repeat(block, axis=2)[:, :height, :width]


def stored(tmp_path: Path, clip: Any, **settings: int) -> tuple[Path, dict[str, Any]]:
    folder = write_gallery(tmp_path / "gallery", None, [PairRow("p", Sample(clip, {}, "a", "video"), Sample(clip, {}, "b", "video"), 0.0)],
                           title="t", **settings).parent  # type: ignore[arg-type]  # fmt: skip
    text = (folder / "data/pairs/0000.js").read_text("ascii")
    [[record, _]] = json.loads(text.removeprefix('galleryData("pairs/0000",').removesuffix(");\n"))
    return folder, record


def decoded(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        facts = {"codec": stream.codec_context.name, "pixels": stream.codec_context.pix_fmt, "fps": float(stream.average_rate or 0)}
    return frames, facts


@pytest.mark.parametrize(("side", "factor", "block"), [((16, 24), 10, 1), ((64, 64), 4, 4), ((100, 75), 2, 5), ((128, 128), 2, 8)])
def test_a_tiny_video_is_enlarged_by_a_whole_even_factor(tmp_path: Path, side: tuple[int, int], factor: int, block: int) -> None:
    frames = squares(5, *side, block=block)
    folder, record = stored(tmp_path, Clip(frames))
    found, facts = decoded(folder / record["src"])
    assert facts == {"codec": "h264", "pixels": "yuv420p", "fps": 8.0}
    assert found.shape == (5, side[0] * factor, side[1] * factor, 3)
    middles = found[:, factor // 2 :: factor, factor // 2 :: factor].astype(int)
    assert np.abs(middles - frames).mean() < 6  # of 255, between squares of random colours
    assert record | {"src": "", "poster": ""} == {
        "kind": "video", "id": "a", "src": "", "poster": "", "width": side[1], "height": side[0], "frames": 5, "fps": 8.0, "tiny": True
    }  # fmt: skip
    with Image.open(folder / record["poster"]) as poster:
        assert np.array_equal(np.asarray(poster.convert("RGB")), frames[0])


@pytest.mark.parametrize(
    ("height", "width", "src", "detail"),
    [(150, 201, (150, 202), None), (300, 601, (128, 256), (300, 602)), (400, 800, (128, 256), (256, 512))],
)
def test_a_larger_one_has_even_sides_and_a_detail(
    tmp_path: Path, height: int, width: int, src: tuple[int, int], detail: tuple[int, int] | None
) -> None:
    frames = squares(3, height, width, block=50)
    folder, record = stored(tmp_path, Clip(frames, 12.5), thumbnail_size=256, detail_size=512 if width == 800 else 1024)
    assert (record["width"], record["height"], record["frames"], record["fps"], record["tiny"]) == (width, height, 3, 12.5, False)
    found, facts = decoded(folder / record["src"])
    assert found.shape == (3, *src, 3) and facts["fps"] == 12.5
    if detail is None:
        assert "detail" not in record
        assert np.abs(found[:, :height, :width].astype(int) - frames).mean() < 3
    else:
        large, _ = decoded(folder / record["detail"])
        assert large.shape == (3, *detail, 3)
        if detail[0] == height:  # nothing was scaled: an odd last column is repeated
            assert np.abs(large[:, :, :width].astype(int) - frames).mean() < 3
    with Image.open(folder / record["poster"]) as poster:
        assert max(poster.size) == min(256, width)


def test_thumbnails_alone(tmp_path: Path) -> None:
    folder, record = stored(tmp_path, Clip(squares(1, 300, 200)), thumbnail_size=64, detail_size=0)
    assert decoded(folder / record["src"])[0].shape == (1, 64, 44, 3) and "detail" not in record


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (Clip(np.zeros((2, 8, 8, 3), np.float32)), "frames() returned float32 of shape (2, 8, 8, 3); the gallery takes uint8 of shape"),
        (Clip(np.zeros((8, 8, 3), np.uint8)), "frames() returned uint8 of shape (8, 8, 3)"),
        (Clip(np.zeros((0, 8, 8, 3), np.uint8)), "frames() returned uint8 of shape (0, 8, 8, 3)"),
        (Clip(np.zeros((2, 8, 8, 3), np.uint8), 0.0), "fps is 0.0; the gallery takes a rate above 0 and up to 1000"),
        (Clip(np.zeros((2, 8, 8, 3), np.uint8), float("nan")), "fps is nan"),
    ],
)
def test_what_is_no_video_is_refused_and_named(tmp_path: Path, clip: Clip, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape("pair 0 ('p'), chosen: " + message)):
        stored(tmp_path, clip)
    assert list(tmp_path.iterdir()) == []
