"""The grid of space and time that the clips of the motion world lie on."""

import numpy as np

SIZE = 32  # pixels, both sides of a frame
FPS = 8
FRAMES = 17  # two seconds
SEGMENT = 4  # frames: half a second, and what a causal video autoencoder makes one latent of


def check_whole(frames: int) -> None:
    """ValueError unless so many frames are whole segments and the start: 4n + 1, at least 5."""
    if frames < SEGMENT + 1 or frames % SEGMENT != 1:
        raise ValueError(f"{frames} frames are no whole segments; give 4n + 1, at least 5, such as {FRAMES}")


def segments(frames: int) -> list[tuple[int, int]]:
    """The segments of a clip as (start, stop): the frames start + 1 to stop, and the steps between the frames start to stop.

    Segment i is frames 4i + 1 to 4i + 4; frame 0 is the start and in none. Where up to three frames are left, the last four frames are
    one more segment, which shares some with the one before: a shorter one would be too short to tell a direction.
    """
    starts = list(range(0, frames - SEGMENT, SEGMENT))
    if (frames - 1) % SEGMENT:
        starts.append(frames - 1 - SEGMENT)
    return [(start, start + SEGMENT) for start in starts]


def over_frames(values: np.ndarray, frames: int) -> np.ndarray:
    """Values (segments, …) for each frame but the first, (T − 1, …): those of its segment, of the earlier where two share it."""
    return values[np.minimum(np.arange(frames - 1) // SEGMENT, len(values) - 1)]


def pace(frames: int) -> float:
    """The factor by which objects are slower in a clip of more than 17 frames, so that they do not leave the picture."""
    return min(1.0, (FRAMES - 1) / (frames - 1))


def check_video(video: np.ndarray) -> None:
    """ValueError unless `video` is uint8 (T, 32, 32, 3) of five frames or more."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(f"video is {video.dtype} {video.shape}; give uint8 (frames, {SIZE}, {SIZE}, 3)")
    if len(video) < SEGMENT + 1:
        raise ValueError(f"video has {len(video)} frames; give at least {SEGMENT + 1}, such as {FRAMES}")
