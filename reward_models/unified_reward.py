"""UnifiedReward: a vision-language model tuned to rate and to rank generated pictures, asked for the answers that it was tuned to give."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from math import nan
from statistics import fmean
from typing import Any

from diffalign.data.modalities import Media
from reward_models.both_orders import pairs_in_both_orders, win_shares
from reward_models.contract import check_call, check_counts
from reward_models.vision_language import answered, judge_of, shown, text

CRITERIA = ("alignment", "coherence", "style")
# What the weights were tuned to answer, word for word as released (MIT licence).
QUESTIONS = {
    "final": (
        "You are given a text caption and a generated image based on that caption. Your task is to evaluate this image based on two key "
        "criteria:\n"
        "1. Alignment with the Caption: Assess how well this image aligns with the provided caption. Consider the accuracy of depicted "
        "objects, their relationships, and attributes as described in the caption.\n"
        "2. Overall Image Quality: Examine the visual quality of this image, including clarity, detail preservation, color accuracy, and "
        "overall aesthetic appeal.\n"
        "Extract key elements from the provided text caption, evaluate their presence in the generated image using the format: "
        "'element (type): value' (where value=0 means not generated, and value=1 means generated), and assign a score from 1 to 5 after "
        "'Final Score:'.\nYour task is provided as follows:"
    ),
    "dimensions": (
        "You are presented with a generated image and its associated text caption. Your task is to analyze the image across multiple "
        "dimensions in relation to the caption. Specifically:\n"
        "Provide overall assessments for the image along the following axes (each rated from 1 to 5):\n"
        "- Alignment Score: How well the image matches the caption in terms of content.\n"
        "- Coherence Score: How logically consistent the image is (absence of visual glitches, object distortions, etc.).\n"
        "- Style Score: How aesthetically appealing the image looks, regardless of caption accuracy.\n\n"
        "Output your evaluation using the format below:\n\n"
        "Alignment Score (1-5): X\nCoherence Score (1-5): Y\nStyle Score (1-5): Z\n\nYour task is provided as follows:"
    ),
    "rank": (
        "You are given a text caption and two generated images based on that caption. Your task is to evaluate and compare these images "
        "based on two key criteria:\n"
        "1. Alignment with the Caption: Assess how well each image aligns with the provided caption. Consider the accuracy of depicted "
        "objects, their relationships, and attributes as described in the caption.\n"
        "2. Overall Image Quality: Examine the visual quality of each image, including clarity, detail preservation, color accuracy, and "
        "overall aesthetic appeal.\n"
        "Compare both images using the above criteria and select the one that better aligns with the caption while exhibiting superior "
        'visual quality.\nProvide a clear conclusion such as "Image 1 is better.", "Image 2 is better." and "Both images are equally '
        'good."\nYour task is provided as follows:'
    ),
}
ANSWER = "dimensions"
NUMBER = r"([0-9]+(?:\.[0-9]+)?)"


class UnifiedReward:
    """Scores from 1 to 5, or shares of pairs won: Wang et al. 2025, arXiv:2503.05236.

    answer        final: "Final Score", 1 to 5. dimensions: alignment, coherence and style, 1 to 5 each, and `score`, their mean (2.0;
                  for 1.5 give `question`: it asks for word-wise scores first). rank: `score`, the share of a prompt's other pictures
                  that one is better than, each two asked in both orders; answers that change with the order are ties
    question      what is asked, before "Text Caption: [prompt]", in place of QUESTIONS: the words of a later release, for one
    endpoint      {url, model, …} as diffalign.endpoint.Endpoint has it, or else
    checkpoint    a folder or hub id of transformers: CodeGoat24/UnifiedReward-2.0-qwen-7b and its kin
    longest_side  of a picture as shown, in pixels: larger ones are scaled down before the model's own preprocessing, as the released
                  code does not do
    at_once       questions under way at an endpoint
    max_tokens    of an answer of a checkpoint; an endpoint has a setting of its own
    revision, device, dtype, batch  of a checkpoint: see vision_language.LocalJudge
    """

    name = "unified_reward"
    modalities = frozenset({"image"})

    def __init__(
        self, endpoint: Mapping[str, Any] | None = None, checkpoint: str | None = None, *, answer: str = ANSWER,
        question: str | None = None, longest_side: int = 1024, at_once: int = 4, max_tokens: int = 1024, revision: str | None = None,
        device: str = "auto", dtype: str = "auto", batch: int = 1,
    ) -> None:  # fmt: skip
        check_counts(self.name, longest_side=longest_side, at_once=at_once, max_tokens=max_tokens)
        self.dimensions = self.dimensions_of(answer=answer)
        self.judge = judge_of(
            self.name,
            endpoint,
            checkpoint,
            at_once=at_once,
            revision=revision,
            device=device,
            dtype=dtype,
            batch=batch,
            max_tokens=max_tokens,
        )
        self.accounts = self.judge.accounts
        self.unanswered: list[str] = []
        self.answer, self.question, self.longest_side = answer, question or QUESTIONS[answer], longest_side
        self.groupwise = answer == "rank"
        words = sha256(self.question.encode()).hexdigest()[:12]
        self.revision = f"{self.judge.revision}/{answer}/{longest_side}/{words}"

    @staticmethod
    def dimensions_of(*, answer: str = ANSWER, **_: Any) -> tuple[str, ...]:
        """The criteria and their mean, or one score."""
        if answer not in QUESTIONS:
            raise ValueError(f"unified_reward got answer = {answer!r}; choose one of: {', '.join(QUESTIONS)}")
        return (*CRITERIA, "score") if answer == "dimensions" else ("score",)

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """One list per dimension; NaN of pictures about which no answer can be read, and `unanswered` says why."""
        check_call(self, prompts, media)
        parts = [shown(self.judge, item, frames=1, longest_side=self.longest_side) for item in media]
        if self.answer == "rank":
            pairs = pairs_in_both_orders(prompts)
            answers = self._answers([(pair, prompts[pair[0]], [*parts[pair[0]], *parts[pair[1]]]) for pair in pairs], better)
            return {"score": win_shares(dict(zip(pairs, answers, strict=True)), len(media))}
        questions = [((place,), prompt, parts[place]) for place, prompt in enumerate(prompts)]
        if self.answer == "final":
            return {"score": [nan if score is None else score for score in self._answers(questions, final_score)]}
        rows = [dict.fromkeys(CRITERIA, nan) if row is None else row for row in self._answers(questions, dimension_scores)]
        return {**{name: [row[name] for row in rows] for name in CRITERIA}, "score": [fmean(row.values()) for row in rows]}

    def _answers(self, questions: Sequence[tuple[tuple[int, ...], str, list[dict[str, Any]]]], parse: Callable[[str], Any]) -> list[Any]:
        def told(place: int) -> str:
            return f"unified_reward has no score for item {' and '.join(map(str, questions[place][0]))} of a call"

        asked = [[*parts, text(f"{self.question}\nText Caption: [{prompt}]")] for _, prompt, parts in questions]
        return answered(self.judge, asked, parse, told, self.unanswered)


def final_score(answer: str) -> float | None:
    """The last "Final Score: X" of an answer, X from 1 to 5; None where there is none."""
    found = re.findall(rf"Final Score:?\**\s*:?\s*{NUMBER}", answer)
    return float(found[-1]) if found and 1 <= float(found[-1]) <= 5 else None


def dimension_scores(answer: str) -> dict[str, float] | None:
    """The last score of each criterion of an answer, from 1 to 5; None where one is not there."""
    scores: dict[str, float] = {}
    for name in CRITERIA:
        found = re.findall(rf"{name} score(?: \(1-5\))?:?\**\s*:?\s*{NUMBER}", answer, flags=re.IGNORECASE)
        if not found or not 1 <= float(found[-1]) <= 5:
            return None
        scores[name] = float(found[-1])
    return scores


def better(answer: str) -> str | None:
    """first, second or tie, by the last sentence of an answer that says so; None where none does."""
    verdicts = re.findall(r"(Image 1 is better|Image 2 is better|equally good)", answer, flags=re.IGNORECASE)
    return {"image 1 is better": "first", "image 2 is better": "second", "equally good": "tie"}[verdicts[-1].lower()] if verdicts else None
