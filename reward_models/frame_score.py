"""Any reward of pictures over the frames of a video: with clip_score it is "CLIP score per frame"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from diffalign.data.modalities import Media
from diffalign.data.modalities.image import Image
from reward_models import REWARD_MODELS, dimensions_of, load_reward
from reward_models.contract import Reward, accounts_of, check_call, fitting_rewards, unanswered_of

if TYPE_CHECKING:
    from diffalign.data.modalities.video import Video

# A frame without a score leaves its video without one; `min` alone would find it or not by its place.
REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {"mean": fmean, "min": lambda values: float(np.min(values))}


class FrameScore:
    """What a reward of pictures says of a video's frames, each beside the video's prompt, as their mean or their worst.

    of        an image reward of REWARD_MODELS, with settings of its own or without: sharpness, or {clip_score: {checkpoint: …}}
              (not called `reward`: in a config that key says which reward an entry is)
    settings  those of the reward, where `of` is a name alone
    every     of the frames, the first and each n-th after it
    reduce    a name of REDUCTIONS, taken for each dimension by itself

    The dimensions are the image reward's. All frames of a call are one call of it. ValueError for a reward that does not look at pictures,
    or that compares the items of a call: frames of one video are no candidates.
    """

    name = "frame_score"
    modalities = frozenset({"video"})
    groupwise = False

    def __init__(
        self, of: str | Mapping[str, Mapping[str, Any] | None], settings: Mapping[str, Any] | None = None, *,
        every: int = 1, reduce: str = "mean",
    ) -> None:  # fmt: skip
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"frame_score got every = {every!r}; give a whole number of at least 1: 1 is every frame")
        if reduce not in REDUCTIONS:
            raise ValueError(f"frame_score got reduce = {reduce!r}; choose one of: {', '.join(REDUCTIONS)}")
        self.of = image_reward(*name_and_settings(of, settings))
        self.every, self.reduce = every, REDUCTIONS[reduce]
        self.dimensions, self.accounts = self.of.dimensions, accounts_of(self.of)
        self.revision = f"{self.of.name}/{self.of.revision}/every-{every}/{reduce}"

    @property
    def unanswered(self) -> list[str]:
        """Of the image reward."""
        return unanswered_of(self.of)

    @staticmethod
    def dimensions_of(
        of: str | Mapping[str, Mapping[str, Any] | None], settings: Mapping[str, Any] | None = None, **_: Any
    ) -> tuple[str, ...] | None:
        """Those of the image reward."""
        return dimensions_of(*name_and_settings(of, settings))

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """One list per dimension of the image reward, one float per video."""
        check_call(self, prompts, media)
        clips = [video.frames()[:: self.every] for video in cast("Sequence[Video]", media)]
        if not clips:
            return {dimension: [] for dimension in self.dimensions}
        ends = [0]
        for clip in clips:
            ends.append(ends[-1] + len(clip))
        scores = self.of(
            [prompt for prompt, clip in zip(prompts, clips, strict=True) for _ in clip],
            [Image.from_pixels(frame) for clip in clips for frame in clip],
        )
        return {dimension: [float(self.reduce(values[start:end])) for start, end in pairwise(ends)] for dimension, values in scores.items()}


def name_and_settings(
    of: str | Mapping[str, Mapping[str, Any] | None], settings: Mapping[str, Any] | None
) -> tuple[str, Mapping[str, Any]]:
    """The name of a reward and its settings, said as NAME and {…} or as {NAME: {…}}; ValueError where it is neither."""
    if isinstance(of, str):
        return of, settings or {}
    if not isinstance(of, Mapping) or len(of) != 1:
        raise ValueError(f"frame_score got of = {of!r}; give one reward: a name, or {{name: settings}}")
    if settings is not None:
        raise ValueError(f"frame_score got settings = {settings!r} beside of = {of!r}, which holds settings; leave one of them out")
    ((name, own),) = of.items()
    return name, own or {}


def image_reward(name: str, settings: Mapping[str, Any]) -> Reward:
    """The loaded reward; ValueError where it is none of pictures, or a groupwise one."""
    if name in REWARD_MODELS and "image" not in REWARD_MODELS[name].modalities:
        scored = ", ".join(sorted(REWARD_MODELS[name].modalities))
        raise ValueError(f"frame_score got of = {name!r}, which scores {scored}, and frames are image; {fitting_rewards('image')}")
    reward = load_reward(name, **settings)
    if reward.groupwise:
        raise ValueError(f"frame_score got of = {name!r}, which compares the items of a call; give one that scores each picture by itself")
    return reward
