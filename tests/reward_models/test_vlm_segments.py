"""vlm_segments against an endpoint of our own whose rule is known, and against a tiny LLaVA of random weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_endpoint import Server, brighter, shown_pictures
from tiny_llava import ALWAYS

from diffalign.data.modalities.image import Image
from diffalign.data.modalities.video import Video
from reward_models import load_reward
from reward_models.contract import unanswered_of
from reward_models.vision_language import LocalJudge, shrunk, text
from reward_models.vlm_segments import ANSWER, QUESTION, VlmSegments, frame_places

NAN = pytest.approx(math.nan, nan_ok=True)
PROMPT = "a red circle rises"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("diffalign.endpoint.time.sleep", lambda seconds: None)
    found = Server()
    found.answers = [brighter]
    yield found
    found.close()


def judge(server: Server, **settings: Any) -> VlmSegments:
    return VlmSegments(endpoint={"url": server.url, "model": "judge"}, **settings)


def video(levels: list[int]) -> Video:
    """A frame of one grey for each level, 6 x 4 pixels."""
    return Video.from_frames(np.stack([np.full((4, 6, 3), level, dtype=np.uint8) for level in levels]), 8)


def quarters(levels: list[int], each: int = 4) -> Video:
    """So many frames of each level after the first frame, which has the first."""
    return video([levels[0], *(level for level in levels for _ in range(each))])


def test_a_judge_that_does_not_mind_the_order_labels_every_segment(server: Server) -> None:
    # Brighter wins: second, first, tie, second.
    scores = judge(server)([PROMPT] * 2, [quarters([10, 200, 50, 50]), quarters([100, 100, 50, 60])])
    assert scores == {
        "segment_1": [0.0, 1.0], "segment_2": [1.0, 0.0], "segment_3": [0.5, 0.5], "segment_4": [0.0, 1.0], "score": [0.375, 0.625]
    }  # fmt: skip
    assert len(server.asked) == 2 * 4


@pytest.mark.parity("vlm_segments")
def test_each_of_three_is_scored_by_its_two_pairs(server: Server) -> None:
    # First half: c > a > b. Second half: a = b > c.
    scores = judge(server, segments=2)([PROMPT] * 3, [quarters([50, 90]), quarters([20, 90]), quarters([80, 10])])
    assert scores == {"segment_1": [0.5, 0.0, 1.0], "segment_2": [0.75, 0.75, 0.0], "score": [0.625, 0.375, 0.5]}
    assert len(server.asked) == 3 * 2 * 2


@pytest.mark.parametrize("answer", ["first", "second", "tie"])
def test_an_answer_that_does_not_follow_the_videos_is_a_tie(server: Server, answer: str) -> None:
    server.answers = [json.dumps({"better": answer})]
    scores = judge(server)([PROMPT] * 3, [quarters([10, 20, 30, 40]), quarters([200] * 4), quarters([0] * 4)])
    assert scores == {dimension: [0.5] * 3 for dimension in ("segment_1", "segment_2", "segment_3", "segment_4", "score")}


@pytest.mark.parametrize(
    ("answers", "first"),
    [(("first", "second"), 1.0), (("second", "first"), 0.0), (("first", "tie"), 0.5), (("tie", "second"), 0.5), (("second", "tie"), 0.5)],
)
def test_a_win_needs_both_orders(server: Server, answers: tuple[str, str], first: float) -> None:
    server.answers = [json.dumps({"better": answer}) for answer in answers]
    scores = judge(server, segments=1, at_once=1)([PROMPT] * 2, [quarters([1]), quarters([2])])
    assert scores == {"segment_1": [first, 1 - first], "score": [first, 1 - first]}


def levels_shown(server: Server) -> list[tuple[list[int], list[int]]]:
    """Of each question, the greys of the frames shown first and second."""
    found = []
    for question in server.asked:
        first, second, after = ([int(picture[0, 0, 0]) for picture in pictures] for pictures in shown_pictures(question))
        assert after == []
        found.append((first, second))
    return found


def test_both_orders_are_asked_with_the_right_frames_in_order(server: Server) -> None:
    # Grey says which frame it is. 17 frames: the first, and quarters of 4, of which the middles of their halves are 1 and 3. 9: of 2.
    long, short = video(list(range(17))), video(list(range(100, 109)))
    judge(server, frames=2, at_once=1, question="Which is lighter?")([PROMPT] * 2, [long, short])
    segments = [([1, 3], [100, 102]), ([6, 8], [103, 104]), ([10, 12], [105, 106]), ([14, 16], [107, 108])]
    assert levels_shown(server) == [shown for first, second in segments for shown in ((first, second), (second, first))]
    words = [part["text"] for part in server.asked[0]["messages"][0]["content"] if part["type"] == "text"]
    assert words == [
        f"Which is lighter?\n\nThe prompt: {PROMPT}\n\nFrames of the first video:", "Frames of the second video:", ANSWER
    ]  # fmt: skip
    np.testing.assert_array_equal(shown_pictures(server.asked[0])[0][0], long.frames()[1])


def test_the_question_asks_for_what_is_judged() -> None:
    assert all(word in QUESTION for word in ("motion", "artefacts", "prompt")) and '{"better": "first"}' in ANSWER


def test_many_questions_at_once_give_what_one_at_a_time_gives(server: Server) -> None:
    random = np.random.default_rng(0)
    videos = [video(random.integers(0, 256, 9).tolist()) for _ in range(4)]
    one, many = (judge(server, at_once=at_once)([PROMPT] * 4, videos) for at_once in (1, 8))
    assert one == many and len(set(one["score"])) > 1


def test_videos_of_other_prompts_are_not_compared(server: Server) -> None:
    prompts = ["a", "b", "a", "c"]
    scores = judge(server, segments=1)(prompts, [quarters([9]), quarters([200]), quarters([5]), quarters([0])])
    assert scores == {"segment_1": [1.0, 0.5, 0.0, 0.5], "score": [1.0, 0.5, 0.0, 0.5]}
    assert len(server.asked) == 2


def test_an_answer_that_is_no_choice_is_asked_again(server: Server) -> None:
    server.answers = ["I like both", '{"better": "left"}', '["first"]', '{"better": ["first"]}', 'Well: {"better": "first"}', brighter]
    scores = judge(server, segments=1, at_once=1)([PROMPT] * 2, [quarters([9]), quarters([5])])
    assert scores["score"] == [1.0, 0.0] and len(server.asked) == 6


def test_a_pair_that_is_never_answered_is_named(server: Server) -> None:
    server.answers = [brighter, brighter, "no"]
    endpoint = {"url": server.url, "model": "judge", "retries": 1}
    reward = VlmSegments(endpoint=endpoint, at_once=1, segments=2)
    scores = reward([PROMPT] * 2, [quarters([1, 1]), quarters([2, 2])])
    assert scores == {"segment_1": [0.0, 1.0], "segment_2": [NAN, NAN], "score": [NAN, NAN]}
    message = "about segment 2 of items 0 and 1 ('a red circle rises'): 'judge' gave no such answer as asked for in 2, the last: 'no'"
    assert message in unanswered_of(reward)[0] and len(unanswered_of(reward)) == 2
    server.answers = [(401, {}, "no key")]
    with pytest.raises(ValueError, match=r"about segment 1 of items 0 and 1 .*HTTP 401: no key"):
        reward([PROMPT] * 2, [quarters([1, 1]), quarters([2, 2])])


def test_a_video_that_the_server_refuses_leaves_the_others_their_pairs(server: Server) -> None:
    def answer(question: dict[str, Any]) -> Any:
        refused = any(int(picture[0, 0, 0]) == 66 for pictures in shown_pictures(question) for picture in pictures)
        return (400, {}, "unsafe") if refused else brighter(question)

    server.answers = [answer]
    reward = judge(server, segments=2)
    scores = reward([PROMPT] * 3, [quarters([9, 1]), quarters([5, 66]), quarters([7, 8])])
    assert scores["segment_1"] == [1.0, 0.0, 0.5] and scores["segment_2"] == [0.0, NAN, 1.0]
    assert scores["score"] == [0.5, NAN, 0.75] and len(unanswered_of(reward)) == 4


def places_by_spans(count: int, segments: int) -> list[int]:
    """Of each frame its segment: the span in which most of the time since the frame before lies, the first of equals."""
    found = [0]
    for frame in range(1, count):
        start, end = Fraction(frame - 1, count - 1), Fraction(frame, count - 1)
        shares = [min(end, Fraction(span + 1, segments)) - max(start, Fraction(span, segments)) for span in range(segments)]
        found.append(shares.index(max(shares)))
    return found


def test_segments_are_equal_spans_of_time() -> None:
    for count in range(1, 40):
        for segments in range(1, max(2, count)):
            places = frame_places(count, segments, count)
            assert [segment for segment, own in enumerate(places) for _ in own] == places_by_spans(count, segments)
            assert [frame for own in places for frame in own] == list(range(count)) and all(places)
    assert frame_places(9, 4, 9) == [[0, 1, 2], [3, 4], [5, 6], [7, 8]]


def test_frames_shown_are_evenly_spaced() -> None:
    assert frame_places(32, 2, 4) == [[2, 6, 10, 14], [18, 22, 26, 30]]
    assert frame_places(21, 1, 3) == [[3, 10, 17]]
    assert frame_places(13, 3, 8) == [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert frame_places(12, 3, 1) == [[2], [6], [10]]
    with pytest.raises(ValueError, match="a video of 4 frames for 4 segments; set segments to at most 3"):
        frame_places(4, 4, 1)


def test_large_frames_are_scaled_down(server: Server) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 40, 80, 3), dtype=np.uint8)
    np.testing.assert_array_equal(shrunk(frames[0], 80), frames[0])
    judge(server, segments=1, longest_side=20, at_once=1)([PROMPT] * 2, [Video.from_frames(frames, 8), quarters([0])])
    assert [picture.shape for pictures in shown_pictures(server.asked[0]) for picture in pictures] == [(10, 20, 3)] + [(4, 6, 3)] * 4


def test_revision_names_what_the_answers_depend_on() -> None:
    endpoint = {"url": "http://127.0.0.1:1/v1", "model": "a/b"}
    plain = VlmSegments(endpoint=endpoint)
    assert plain.revision.startswith("a/b/temperature-0/tokens-1024/first+4x4/512/")
    assert plain.revision == VlmSegments(endpoint=endpoint | {"url": "http://elsewhere/v1"}, at_once=1).revision
    others: list[dict[str, Any]] = [{"segments": 2}, {"frames": 2}, {"question": "Which is lighter?"}, {"longest_side": 64}]
    changed = [VlmSegments(endpoint=endpoint, **each).revision for each in others]
    changed += [
        VlmSegments(endpoint=endpoint | each).revision
        for each in ({"model": "c"}, {"temperature": 1}, {"temperature": None}, {"max_tokens": 64}, {"extra": {"top_p": 0.5}})
    ]
    assert len({plain.revision, *changed}) == 10
    assert VlmSegments(endpoint=endpoint, segments=2).dimensions == ("segment_1", "segment_2", "score")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one: endpoint {url: …, model: …} of a server, or the checkpoint"),
        ({"endpoint": {"url": "http://x", "model": "m"}, "checkpoint": "y"}, "give one: endpoint"),
        ({"endpoint": {"url": "ftp://x", "model": "m"}}, r"\(url: .*begins with http.*\); it takes: url, model, "),
        ({"endpoint": {"url": "http://x"}}, r"\(model: Field required\); it takes: url, model, "),
        ({"endpoint": {"url": "http://x", "model": "m", "modle": 1}}, "modle: "),
        ({"endpoint": {"url": "http://x", "model": "m"}, "segments": 0}, "segments = 0; give a whole number of at least 1"),
        ({"endpoint": {"url": "http://x", "model": "m"}, "frames": 2.0}, r"frames = 2\.0"),
        ({"endpoint": {"url": "http://x", "model": "m"}, "longest_side": True}, "longest_side = True"),
        ({"endpoint": {"url": "http://x", "model": "m"}, "at_once": -1}, "at_once = -1"),
        ({"endpoint": {"url": "http://x", "model": "m"}, "question": " "}, "question = ' '; say what to judge"),
        ({"checkpoint": "./nowhere"}, r"'\./nowhere', which is no folder"),
        ({"checkpoint": "./nowhere", "dtype": "fp8"}, "dtype = 'fp8'; choose one of: auto, float32"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_reward("vlm_segments", **settings)


# A model on this machine ------------------------------------------------------------------------------


def random_pictures(count: int) -> list[Image]:
    random = np.random.default_rng(0)
    return [Image.from_pixels(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(count)]


def test_a_local_model_is_asked_as_transformers_asks_it(tiny_llava: Path) -> None:
    import torch
    from PIL import Image as PillowImage
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model, processor = LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval(), AutoProcessor.from_pretrained(tiny_llava)
    local = LocalJudge("vlm_segments", str(tiny_llava), device="cpu", max_tokens=12)
    answers = []
    pictures = random_pictures(3)
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        chosen = [pictures[place] for place in order]
        prompt = "<s> word1 word2  <image>  <image>  word3  <image> "
        inputs = processor(text=prompt, images=[PillowImage.fromarray(each.pixels()) for each in chosen], return_tensors="pt")
        inputs.pop("token_type_ids", None)  # which this model does not take
        assert int((inputs["input_ids"] == 5).sum()) == 3 * 5
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        expected = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        parts = [text("word1 word2"), *map(local.show, chosen[:2]), text("word3"), local.show(chosen[2])]
        answers.append(local.ask([parts])[0])
        assert answers[-1] == expected == local.ask([parts])[0]
    assert len(set(answers)) > 1, "the answer must depend on the pictures' order"


def test_a_local_model_that_gives_no_json_is_told(tiny_llava: Path) -> None:
    reward = VlmSegments(checkpoint=str(tiny_llava), device="cpu", segments=1)
    reward.judge.max_tokens = 8  # type: ignore[attr-defined]
    assert reward([PROMPT] * 2, [quarters([10]), quarters([200])])["score"] == [NAN, NAN]
    assert re.search(
        r"no answer about segment 1 of items 0 and 1 .*tiny' gave no such answer as asked for, but 'word", unanswered_of(reward)[0]
    )


def test_a_local_model_answers_in_json(tiny_llava: Path) -> None:
    """With its last norm at 0 all logits are equal, and greedily it always says its word 0."""
    import torch
    from transformers import LlavaForConditionalGeneration

    reward = VlmSegments(checkpoint=str(tiny_llava), device="cpu")
    model = LlavaForConditionalGeneration.from_pretrained(tiny_llava)
    with torch.no_grad():
        model.model.language_model.norm.weight.zero_()
    reward.judge.model.load_state_dict(model.state_dict())  # type: ignore[attr-defined]
    reward.judge.max_tokens = 2  # type: ignore[attr-defined]
    assert reward.judge.ask([[text("word1")]])[0].startswith(ALWAYS)  # type: ignore[attr-defined]
    scores = reward([PROMPT] * 2, [quarters([10, 20, 30, 40]), quarters([200] * 4)])
    assert scores == {dimension: [0.5] * 2 for dimension in reward.dimensions}


def test_a_local_models_revision_is_of_its_weights(tiny_llava: Path) -> None:
    reward = VlmSegments(checkpoint=str(tiny_llava), device="cpu")
    name, weights, others, *rest = reward.revision.split("/")
    assert (name, len(weights), len(others), rest[:2]) == ("tiny", 12, 12, ["first+4x4", "512"])
    assert VlmSegments(checkpoint=str(tiny_llava), device="cpu", dtype="bfloat16").revision.split("/")[1] != weights
