"""What every family of video pipelines is asked beside the questions of family_checks, and how those are put to videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from family_checks import PROMPTS, STEPS, FamilyChecks

from diffalign.data.modalities.video import Video

FRAMES_PER_LATENT = 4  # of every tiny autoencoder


def save_pairs(folder: Path, size: tuple[int, int, int], rate: float) -> Path:
    """chosen/NAME.mp4, rejected/NAME.mp4 and chosen/NAME.txt, four pairs of a frame more than asked."""
    generator, (frames, height, width) = np.random.default_rng(0), size
    for side in ("chosen", "rejected"):
        (folder / side).mkdir(parents=True)
        for index in range(4):
            video = Video.from_frames(generator.integers(0, 256, (frames + 1, height, width, 3), np.uint8), rate)
            (folder / side / f"{index}.mp4").write_bytes(video.encoded())
    for index in range(4):
        (folder / "chosen" / f"{index}.txt").write_text(PROMPTS[index % 2] + "\n", encoding="utf-8")
    return folder


class VideoFamilyChecks(FamilyChecks):
    """The same questions for every family of videos.

    rate   frames per second of what the tiny pipeline makes
    step   frames of each latent after the first, and pixels that height and width are multiples of
    """

    output, axes = "frames", ("num_frames", "height", "width")
    size: ClassVar[tuple[int, ...]] = (9, 16, 32)
    latents: ClassVar[tuple[int, ...]] = (4, 3, 4, 8)
    rate: ClassVar[float]
    step: ClassVar[tuple[int, int, int]] = (FRAMES_PER_LATENT, 16, 16)

    def save_pairs(self, folder: Path) -> Path:
        frames, height, width = self.size
        return save_pairs(folder, (frames, height, width), self.rate)

    def test_videos_have_their_rate_and_each_latent_its_place_in_time(self, loaded: Any) -> None:
        """The first latent is the first frame of nine, which takes no time, each other one the next four."""
        [video] = loaded.sample(PROMPTS[:1], [1], steps=2, guidance=3.0, size=self.size, **self.given(PROMPTS[:1]))
        assert video.fps == loaded.rate == self.rate and video.frames().shape == (*self.size, 3)
        assert loaded.time_edges(3) == [0, 0, 0.5, 1] and loaded.time_edges(1) == [0, 1]

    def test_a_first_latent_is_of_the_first_frame(self, loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever comes after it, but for the statistics of normalisation over a clip; the others are not. So `time_edges` holds."""
        monkeypatch.setattr(torch.nn.GroupNorm, "forward", lambda module, values: values)
        media = np.random.default_rng(0).uniform(-1, 1, (1, 3, *self.size)).astype(np.float32)
        other = media.copy()
        other[:, :, 1:] *= -1
        first, second = (loaded.encode(torch.from_numpy(each), seeds=None) for each in (media, other))
        assert np.allclose(first[:, :, 0], second[:, :, 0], atol=1e-4) and not np.allclose(first[:, :, 1:], second[:, :, 1:], atol=1e-2)

    def test_sizes_are_of_whole_latents(self, loaded: Any) -> None:
        frames, height, width = self.step
        assert loaded.whole((2 * frames, height + 1, 3 * width - 1)) == (frames + 1, height, 2 * width)
        assert len(loaded.size) == 3 and loaded.whole(loaded.size) == tuple(loaded.size)

    def test_its_own_scheduler_alone_samples(self, loaded: Any) -> None:
        own = type(loaded.pipeline.scheduler).__name__
        with pytest.raises(
            ValueError, match=f"scheduler 'ddim' does not know the noise levels of .*, which has its own {own}; leave it out"
        ):
            loaded.sample(PROMPTS, [1, 2], steps=STEPS, guidance=3.0, size=self.size, scheduler="ddim", **self.given(PROMPTS))
