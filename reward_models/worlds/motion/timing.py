"""The grid of space and time that the clips of the motion world lie on."""

import numpy as np

SIZE = 32  # pixels, both sides of a frame
FPS = 8
FRAMES = 17  # two seconds
SEGMENT = 4  # frames: half a second, and what a causal video autoencoder makes one latent of


def segment_count(frames: int) -> int:
    """How many segments a clip of 4n + 1 frames has: segment i is frames 4i + 1 to 4i + 4, frame 0 is the start and in none.

    ValueError for another number of frames.
    """
    if frames < SEGMENT + 1 or frames % SEGMENT != 1:
        raise ValueError(f"{frames} frames are no whole segments; give 4n + 1, at least 5, such as {FRAMES}")
    return frames // SEGMENT


def pace(frames: int) -> float:
    """The factor by which objects are slower in a clip of more than 17 frames, so that they do not leave the picture."""
    return min(1.0, (FRAMES - 1) / (frames - 1))


def check_video(video: np.ndarray) -> None:
    """ValueError unless `video` is uint8 (4n + 1, 32, 32, 3)."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(f"video is {video.dtype} {video.shape}; give uint8 (frames, {SIZE}, {SIZE}, 3)")
    segment_count(len(video))
