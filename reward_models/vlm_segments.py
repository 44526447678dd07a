"""Which of two videos is better, segment by segment, by a vision-language model that is asked in both orders: DenseDPO's machine labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from diffalign.data.modalities import Media
from diffalign.data.modalities.image import Image
from reward_models.both_orders import CHOICES, win_shares
from reward_models.contract import check_call, check_counts
from reward_models.vision_language import answered, json_of, judge_of, shrunk, text

if TYPE_CHECKING:
    from diffalign.data.modalities.video import Video

QUESTION = (
    "Two videos were made for one prompt. You see the same stretch of time of each, as frames in order. Judge which is better in this "
    "stretch: whose motion is more natural, whose frames have fewer artefacts (flicker, deformation, what appears or vanishes without "
    "cause), and which agrees better with the prompt."
)
ANSWER = 'Answer with JSON alone: {"better": "first"}, {"better": "second"}, or {"better": "tie"} where neither is clearly better.'


SEGMENTS = 4


@dataclass(frozen=True)
class Asked:
    """A question: the prompt, the segment from 0, and the places in the call of the videos shown first and second."""

    prompt: str
    segment: int
    first: int
    second: int


class VlmSegments:
    """How often each video wins against the others of its prompt, in each segment of time.

    After Wu et al. 2025 (DenseDPO), arXiv:2506.03517, whose machine labels are of one pair and whose segments last a second.
    Every pair is asked about every segment in both orders, K(K − 1) · segments questions for K videos. Where both answers name the same
    video it has 1 and the other 0; ties and answers that change with the order are 0.5 each. `segment_i` is the mean over a video's
    pairs, so that of more than two videos a third decides between two that are a tie by themselves; `score` is the mean over segments.
    Videos are compared where their prompts are equal; one alone has 0.5. A question that the server refuses, or never answers in JSON,
    leaves its pair out of that segment; a video without a pair has no score there, and no `score`.

    endpoint      {url, model, …} as diffalign.endpoint.Endpoint has it, or else
    checkpoint    a folder or hub id of an image-text-to-text model of transformers
    segments      equal spans of time, as pair.spans has them: clips of unequal length are compared by share of their time
    frames        shown of each segment, evenly spaced; all where it has no more
    question      what to judge; the form of the answer is asked for after it
    longest_side  of a frame as shown, in pixels: larger ones are scaled down
    at_once       questions under way at an endpoint
    revision, device, dtype, batch  of a checkpoint: see vision_language.LocalJudge
    """

    name = "vlm_segments"
    modalities = frozenset({"video"})
    groupwise = True

    def __init__(
        self,
        endpoint: Mapping[str, Any] | None = None,
        checkpoint: str | None = None,
        *,
        segments: int = SEGMENTS,
        frames: int = 4,
        question: str = QUESTION,
        longest_side: int = 512,
        at_once: int = 4,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch: int = 1,
    ) -> None:
        check_counts(self.name, segments=segments, frames=frames, longest_side=longest_side, at_once=at_once)
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"vlm_segments got question = {question!r}; say what to judge, or leave it out")
        self.judge = judge_of(self.name, endpoint, checkpoint, at_once=at_once, revision=revision, device=device, dtype=dtype, batch=batch)
        self.accounts = self.judge.accounts
        self.unanswered: list[str] = []
        self.segments, self.frames, self.question, self.longest_side = segments, frames, question, longest_side
        self.dimensions = self.dimensions_of(segments=segments)
        words = sha256("\n".join([question, ANSWER]).encode()).hexdigest()[:12]
        self.revision = f"{self.judge.revision}/first+{segments}x{frames}/{longest_side}/{words}"

    @staticmethod
    def dimensions_of(*, segments: int = SEGMENTS, **_: Any) -> tuple[str, ...]:
        """One for each segment, and their mean."""
        check_counts(VlmSegments.name, segments=segments)
        return (*(f"segment_{place + 1}" for place in range(segments)), "score")

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """One list per dimension, one float in [0, 1] per video; NaN where the model answers about none of its pairs (see `unanswered`)."""
        check_call(self, prompts, media)
        groups: dict[str, list[int]] = {}
        for place, prompt in enumerate(prompts):
            groups.setdefault(prompt, []).append(place)
        asked = [
            Asked(prompt, segment, first, second)
            for prompt, places in groups.items()
            for pair in combinations(places, 2)
            for segment in range(self.segments)
            for first, second in permutations(pair)
        ]
        shown = {place: self._shown(cast("Video", media[place])) for place in sorted({question.first for question in asked})}

        def told(place: int) -> str:
            question = asked[place]
            items = f"items {question.first} and {question.second} ({question.prompt[:80]!r})"
            return f"vlm_segments got no answer about segment {question.segment + 1} of {items}"

        questions = [self._question(each, shown) for each in asked]
        found = answered(self.judge, questions, json_of(is_choice), told, self.unanswered)
        better = [None if answer is None else answer["better"] for answer in found]
        points = points_of(dict(zip(asked, better, strict=True)), len(media), self.segments)
        scores = {f"segment_{segment + 1}": points[:, segment].tolist() for segment in range(self.segments)}
        return {**scores, "score": points.mean(axis=1).tolist()}

    def _shown(self, video: Video) -> list[list[dict[str, Any]]]:
        """The frames of each segment as parts of a question."""
        frames = video.frames()
        return [
            [self.judge.show(Image.from_pixels(shrunk(frames[place], self.longest_side))) for place in places]
            for places in frame_places(len(frames), self.segments, self.frames)
        ]

    def _question(self, asked: Asked, shown: Mapping[int, list[list[dict[str, Any]]]]) -> list[dict[str, Any]]:
        return [
            text(f"{self.question}\n\nThe prompt: {asked.prompt}\n\nFrames of the first video:"),
            *shown[asked.first][asked.segment],
            text("Frames of the second video:"),
            *shown[asked.second][asked.segment],
            text(ANSWER),
        ]


def is_choice(value: Any) -> bool:
    """Whether an answer is {"better": one of CHOICES}."""
    return isinstance(value, dict) and isinstance(value.get("better"), str) and value["better"] in CHOICES


def points_of(answers: Mapping[Asked, str | None], items: int, segments: int) -> np.ndarray:
    """(items, segments): the share of its pairs that an item wins in a segment, by `win_shares`."""
    by_segment: list[dict[tuple[int, int], str | None]] = [{} for _ in range(segments)]
    for asked, answer in answers.items():
        by_segment[asked.segment][asked.first, asked.second] = answer
    return np.array([win_shares(own, items) for own in by_segment]).T


def frame_places(count: int, segments: int, shown: int) -> list[list[int]]:
    """Of each segment of a clip, the frames shown: at most `shown`, in the middles of equal parts of the segment.

    The segments are equal spans of the time from the first frame to the last. A frame is of the one in which most of the time from the
    frame before lies, or of the first of two; the first frame is of the first. ValueError for fewer steps of time than segments.
    """
    steps = count - 1
    if steps < segments and not count == segments == 1:
        raise ValueError(f"vlm_segments got a video of {count} frames for {segments} segments; set segments to at most {max(1, steps)}")
    members: list[list[int]] = [[0], *([] for _ in range(segments - 1))]
    for step in range(steps):
        members[-(-(2 * step + 1) * segments // (2 * steps)) - 1].append(step + 1)  # ceil(middle of the step · segments) − 1, exactly
    return [own if len(own) <= shown else [own[(2 * part + 1) * len(own) // (2 * shown)] for part in range(shown)] for own in members]
