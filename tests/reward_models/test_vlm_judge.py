"""vlm_judge and unified_reward against an endpoint of our own whose rules are known; vqa_score against a tiny LLaVA called directly."""

from __future__ import annotations

import functools
import json
import math
import wave
from base64 import b64decode
from collections.abc import Callable, Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_endpoint import Server, rating, shown_pictures

from diffalign.data.modalities.audio import Audio
from diffalign.data.modalities.image import Image
from diffalign.data.modalities.video import Video
from reward_models import load_reward
from reward_models.both_orders import pairs_in_both_orders, win_shares
from reward_models.contract import accounts_of, unanswered_of
from reward_models.unified_reward import QUESTIONS, UnifiedReward, better, dimension_scores, final_score
from reward_models.vision_language import LocalJudge, evenly, text, wav
from reward_models.vlm_judge import CRITERIA, VlmJudge

PROMPT = "a red circle"
NAN = pytest.approx(math.nan, nan_ok=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("diffalign.endpoint.time.sleep", lambda seconds: None)
    found = Server()
    found.answers = [rating]
    yield found
    found.close()


def grey(level: int, size: tuple[int, int] = (4, 6)) -> Image:
    return Image.from_pixels(np.full((*size, 3), level, dtype=np.uint8))


def judge(server: Server, **settings: Any) -> VlmJudge:
    return VlmJudge(endpoint={"url": server.url, "model": "judge", "retries": 2}, **settings)


def unified(server: Server, **settings: Any) -> UnifiedReward:
    return UnifiedReward(endpoint={"url": server.url, "model": "judge", "retries": 2}, **settings)


def words_of(question: dict[str, Any]) -> str:
    return "\n".join(part["text"] for part in question["messages"][0]["content"] if part["type"] == "text")


# Rated one by one -------------------------------------------------------------------------------------


@pytest.mark.parity("vlm_judge")
def test_ratings_are_the_answers_numbers_and_their_mean(server: Server) -> None:
    server.answers = ['{"alignment": 4, "quality": 1}', 'I say {"alignment": 2.5, "quality": 5} now']
    reward = judge(server, at_once=1)
    assert reward([PROMPT] * 2, [grey(1), grey(2)]) == {"alignment": [4.0, 2.5], "quality": [1.0, 5.0], "score": [2.5, 3.75]}
    assert reward.dimensions == ("alignment", "quality", "score") and reward.groupwise is False


def test_each_medium_is_asked_about_with_its_own_prompt(server: Server) -> None:
    scores = judge(server, at_once=1)(["a low one", "a light one"], [grey(0), grey(255)])
    assert scores["alignment"] == [1, 5] and scores["quality"] == [5, 1]
    assert ["The prompt: a low one" in words_of(question) for question in server.asked] == [True, False]
    assert [int(shown_pictures(question)[0][0][0, 0, 0]) for question in server.asked] == [0, 255]
    assert all(f"- {name}: {meaning}" in words_of(server.asked[0]) for name, meaning in CRITERIA.items())
    assert 'JSON alone: {"alignment": …, "quality": …}' in words_of(server.asked[0])


def test_many_questions_at_once_give_what_one_at_a_time_gives(server: Server) -> None:
    media = [grey(level) for level in (3, 200, 90, 41, 255)]
    one, many = (judge(server, at_once=at_once)([PROMPT] * 5, media) for at_once in (1, 8))
    assert one == many and len(set(one["score"])) == 1 < len(set(one["alignment"]))


@pytest.mark.parametrize(
    "wrong",
    ["none", "[4, 4]", '{"alignment": 4}', '{"alignment": 4, "quality": 0}', '{"alignment": 4, "quality": 5.1}',
     '{"alignment": true, "quality": 3}', '{"alignment": "4", "quality": 3}'],
)  # fmt: skip
def test_an_answer_of_another_form_is_asked_again_and_then_named(server: Server, wrong: str) -> None:
    server.answers = [wrong, '{"alignment": 3, "quality": 3}']
    assert judge(server, at_once=1)([PROMPT], [grey(1)])["score"] == [3.0] and len(server.asked) == 2
    server.answers = ['{"alignment": 3, "quality": 3}', wrong]
    reward = judge(server, at_once=1)
    assert reward([PROMPT] * 2, [grey(1), grey(2)]) == {name: [3.0, NAN] for name in ("alignment", "quality", "score")}
    (reason,) = unanswered_of(reward)
    assert reason.startswith("vlm_judge got no answer about item 1 of a call: 'judge' gave no such answer as asked for in 3")


def refuses(level: int, answer: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], Any]:
    """A server that answers, but refuses what shows a picture of this grey."""

    def found(question: dict[str, Any]) -> Any:
        shown = shown_pictures(question, words_first=False)
        return (400, {}, "unsafe") if any(picture[0, 0, 0] == level for each in shown for picture in each) else answer(question)

    return found


def test_a_medium_that_the_server_refuses_has_no_score(server: Server) -> None:
    whole, reward = judge(server)([PROMPT] * 3, [grey(3), grey(4), grey(200)]), judge(server)
    server.answers = [refuses(4, rating)]
    scores = reward([PROMPT] * 3, [grey(3), grey(4), grey(200)])
    assert scores == {name: [first, NAN, last] for name, (first, _, last) in whole.items()}
    assert ["item 1 of a call" in reason and "HTTP 400: unsafe" in reason for reason in unanswered_of(reward)] == [True]


def test_a_judge_that_thinks_is_taken_at_its_last_word(server: Server) -> None:
    """In JSON and in sentences; one that is cut off in its thoughts has said nothing."""
    server.answers = ['<think>{"alignment": 1, "quality": 1}, no.</think>{"alignment": 4, "quality": 2}']
    assert judge(server)([PROMPT], [grey(1)]) == {"alignment": [4.0], "quality": [2.0], "score": [3.0]}
    said = "Final Score: 2"
    for answer, score in ((f"<think>{said}</think>Final Score: 4", 4.0), (f"<think>{said}</think>\nNo.", NAN), (f"<think>{said}", NAN)):
        server.answers = [answer]
        reward = unified(server, answer="final")
        assert reward([PROMPT], [grey(1)]) == {"score": [score]} and len(unanswered_of(reward)) == (score is NAN)


@pytest.mark.parametrize("code", [401, 404])
def test_what_would_refuse_any_question_ends_the_call(server: Server, code: int) -> None:
    server.answers = [(code, {}, "no")]
    with pytest.raises(ValueError, match=rf"vlm_judge got no answer about item 0 of a call: .*HTTP {code}: no"):
        judge(server, at_once=1)([PROMPT] * 5, [grey(1)] * 5)
    assert len(server.asked) == 1  # and none of the others is asked
    with pytest.raises(ValueError, match=rf"unified_reward has no score for item 0 of a call: .*HTTP {code}: no"):
        unified(server, at_once=1)([PROMPT], [grey(1)])


def test_rewards_of_rewards_pass_on_what_has_no_answer(server: Server) -> None:
    endpoint = {"url": server.url, "model": "m"}
    server.answers = [refuses(4, rating)]
    frames = load_reward("frame_score", of={"vlm_judge": {"endpoint": endpoint}}, reduce="min")
    clips = [np.stack([np.full((4, 6, 3), level, dtype=np.uint8) for level in levels]) for levels in ((3, 4), (4, 3), (3, 255))]
    assert frames([PROMPT] * 3, [Video.from_frames(clip, 8) for clip in clips])["alignment"] == [NAN, NAN, pytest.approx(1 + 12 / 255)]
    assert len(unanswered_of(frames)) == 2
    parts = {"brightness": {}, "judge": {"reward": "vlm_judge", "endpoint": endpoint}}
    ensemble = load_reward("ensemble", of=parts, rule="win_fraction", weights={"brightness.score": 1.0, "judge.alignment": 1.0})
    prompts, media = [PROMPT, PROMPT, "b", PROMPT], [grey(3), grey(4), grey(4), grey(200)]
    assert ensemble(prompts, media)["score"] == [0.0, NAN, NAN, 1.0]
    assert len(unanswered_of(ensemble)) == 2 and unanswered_of(load_reward("brightness")) == []


def test_criteria_of_ones_own_are_the_dimensions(server: Server) -> None:
    server.answers = ['{"colour": 2, "shape": 4}']
    assert judge(server, criteria=["colour", "shape"])([PROMPT], [grey(1)]) == {"colour": [2.0], "shape": [4.0], "score": [3.0]}
    assert "- colour\n- shape" in words_of(server.asked[0])


def test_frames_of_a_video_are_evenly_spaced_and_a_sound_is_sent_as_wav(server: Server) -> None:
    frames = np.stack([np.full((4, 6, 3), 10 * place, dtype=np.uint8) for place in range(16)])
    judge(server, frames=4)([PROMPT], [Video.from_frames(frames, 8)])
    assert [int(picture[0, 0, 0]) for picture in shown_pictures(server.asked[0])[0]] == [20, 60, 100, 140]
    assert "video" in words_of(server.asked[0])
    server.answers = ['{"alignment": 3, "quality": 3}']
    samples = np.stack([np.linspace(-1, 1, 400), np.zeros(400)])
    judge(server)([PROMPT], [Audio.from_waveform(samples, 8000)])
    (part,) = [part for part in server.asked[-1]["messages"][0]["content"] if part["type"] == "input_audio"]
    assert part["input_audio"]["format"] == "wav"
    with wave.open(BytesIO(b64decode(part["input_audio"]["data"]))) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth(), file.getnframes()) == (2, 8000, 2, 400)
        read = np.frombuffer(file.readframes(400), "<i2").reshape(400, 2).T / 32767
    np.testing.assert_allclose(read, samples, atol=1 / 32767)
    assert wav(Audio.from_waveform(samples, 8000))[:4] == b"RIFF"


def test_places_evenly_spaced() -> None:
    assert [evenly(16, 4), evenly(3, 8), evenly(9, 1), evenly(5, 5)] == [[2, 6, 10, 14], [0, 1, 2], [4], [0, 1, 2, 3, 4]]


def test_large_pictures_are_scaled_down(server: Server) -> None:
    judge(server, longest_side=20)([PROMPT], [grey(7, (40, 80))])
    assert shown_pictures(server.asked[0])[0][0].shape == (10, 20, 3)


def test_questions_and_tokens_are_counted(server: Server) -> None:
    reward = judge(server)
    reward([PROMPT] * 3, [grey(1), grey(2), grey(3)])
    assert [account.counts() for account in accounts_of(reward)] == [{"questions": 3, "prompt_tokens": 21, "completion_tokens": 6}]
    assert accounts_of(load_reward("sharpness")) == ()
    endpoint = {"url": server.url, "model": "m"}
    parts = {
        "sharpness": {},
        "judge": {"reward": "vlm_judge", "endpoint": endpoint},
        "other": {"reward": "unified_reward", "endpoint": endpoint},
    }
    ensemble = load_reward("ensemble", of=parts)
    ensemble([PROMPT] * 2, [grey(1), grey(2)])
    assert [account.counts()["questions"] for account in accounts_of(ensemble)] == [2, 2]
    frames = load_reward("frame_score", of={"vlm_judge": {"endpoint": endpoint}})
    frames([PROMPT], [Video.from_frames(np.zeros((3, 4, 6, 3), dtype=np.uint8), 8)])
    assert [account.counts()["questions"] for account in accounts_of(frames)] == [3]


# Compared in both orders ------------------------------------------------------------------------------


def lighter(question: dict[str, Any]) -> str:
    """Alignment: the lighter one, whatever the order. Quality: always the one shown first."""
    first, second, _ = (float(np.mean(pictures)) if pictures else 0.0 for pictures in shown_pictures(question))
    verdict = "tie" if first == second else "first" if first > second else "second"
    return json.dumps({"alignment": verdict, "quality": "first"})


def test_a_win_holds_in_both_orders_and_a_taste_for_a_place_is_a_tie(server: Server) -> None:
    server.answers = [lighter]
    reward = judge(server, mode="compare")
    scores = reward([PROMPT, "b", PROMPT, PROMPT, "b"], [grey(9), grey(1), grey(200), grey(9), grey(0)])
    assert scores["alignment"] == [0.25, 1.0, 1.0, 0.25, 0.0]
    assert scores["quality"] == [0.5] * 5
    assert scores["score"] == [0.375, 0.75, 0.75, 0.375, 0.25]
    assert reward.groupwise is True and len(server.asked) == 3 * 2 + 2


def test_a_pair_that_the_server_refuses_counts_for_neither(server: Server) -> None:
    server.answers = [refuses(4, lighter)]
    reward = judge(server, mode="compare")
    scores = reward([PROMPT, "b", PROMPT, PROMPT, "b", "c"], [grey(9), grey(4), grey(4), grey(200), grey(7), grey(4)])
    assert scores["alignment"] == [0.0, NAN, NAN, 1.0, NAN, 0.5]  # 9 and 200 have met each other; the last is alone
    assert len(unanswered_of(reward)) == 2 * 2 + 2


def test_both_orders_of_a_pair_follow_each_other() -> None:
    assert pairs_in_both_orders(["a", "b", "a", "a"]) == [(0, 2), (2, 0), (0, 3), (3, 0), (2, 3), (3, 2)]
    answers = {(0, 1): "first", (1, 0): "second", (0, 2): "tie", (2, 0): "second", (1, 2): "second", (2, 1): "first"}
    assert win_shares(answers, 4) == [0.75, 0.0, 0.75, 0.5]
    assert win_shares({**answers, (2, 0): None}, 4) == [1.0, 0.0, 1.0, 0.5]
    assert win_shares({**answers, (2, 0): None, (0, 1): None}, 4) == [NAN, 0.0, 1.0, 0.5]


def test_revision_names_what_the_answers_depend_on(server: Server) -> None:
    plain = judge(server)
    assert plain.revision.startswith("judge/temperature-0/tokens-1024/rate/8/768/") and plain.revision == judge(server, at_once=9).revision
    others: list[dict[str, Any]] = [{"criteria": {"alignment": "x"}}, {"mode": "compare"}, {"frames": 2}, {"longest_side": 64}]
    assert len({plain.revision, *(judge(server, **each).revision for each in others)}) == 5


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vlm_judge", {"mode": "rank"}, "mode = 'rank'; choose one of: rate, compare"),
        ("vlm_judge", {"criteria": ["two words"]}, r"criteria = \['two words'\]; give name: meaning"),
        ("vlm_judge", {"criteria": "beauty"}, "criteria = 'beauty'; give name: meaning"),
        ("vlm_judge", {"criteria": ["score"]}, "not 'score'"),
        ("vlm_judge", {"criteria": {}}, "give name: meaning"),
        ("vlm_judge", {"frames": 0}, "frames = 0; give a whole number"),
        ("vlm_judge", {"endpoint": None}, "give one: endpoint"),
        ("unified_reward", {"answer": "best"}, "answer = 'best'; choose one of: final, dimensions, rank"),
        ("unified_reward", {"checkpoint": "x/y"}, "give one: endpoint"),
        ("unified_reward", {"at_once": 0}, "at_once = 0; give a whole number"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_reward(name, **{"endpoint": {"url": "http://127.0.0.1:1/v1", "model": "m"}, **settings})


def test_a_model_on_this_machine_sees_and_does_not_hear(tiny_llava: Path) -> None:
    reward = VlmJudge(checkpoint=str(tiny_llava), device="cpu")
    reward.judge.max_tokens = 4  # type: ignore[attr-defined]
    assert reward([PROMPT], [grey(1, (8, 8))])["score"] == [NAN] and "tiny' gave no such answer" in unanswered_of(reward)[0]
    with pytest.raises(ValueError, match="tiny' sees pictures and hears no sound; give an endpoint"):
        reward([PROMPT], [Audio.from_waveform(np.zeros((1, 400)), 8000)])
    assert accounts_of(reward) == ()


# UnifiedReward ----------------------------------------------------------------------------------------


def test_the_questions_are_those_of_the_release() -> None:
    """Their digests, taken of the released words under the prompt "a red circle": what the weights were tuned on is no style."""
    released = {"final": "8abec02f60073542", "dimensions": "4bdb7293d9c76888", "rank": "bd720dfc18032571"}
    asked = {name: f"{question}\nText Caption: [a red circle]" for name, question in QUESTIONS.items()}
    assert {name: sha256(words.encode()).hexdigest()[:16] for name, words in asked.items()} == released


def test_answers_of_unified_reward_are_read() -> None:
    assert final_score("circle (object): 1\nFinal Score: 4.5") == 4.5
    assert final_score("**Final Score:** 3") == 3.0 and final_score("a Final Score: 2 … Final Score: 5") == 5.0
    assert final_score("Final Score: 6") is None and final_score("Score: 3") is None
    said = 'Word-wise Scores: [["a", 0.1]]\n\nAlignment Score (1-5): 3.5\nCoherence Score (1-5): 4\nStyle Score (1-5): 2.25'
    assert dimension_scores(said) == {"alignment": 3.5, "coherence": 4.0, "style": 2.25}
    assert dimension_scores(said.replace("Style", "Looks")) is None and dimension_scores(said.replace("2.25", "0.5")) is None
    assert [better(f"… Image {first} is better than Image {3 - first}.") for first in (1, 2)] == ["first", "second"]
    assert better("Image 2 is better.") == "second" and better("Both images are equally good.") == "tie" and better("I cannot say") is None
    assert better("At first I thought Image 1 is better than Image 2, but Image 2 is better than Image 1.") == "second"


@pytest.mark.parity("unified_reward")
def test_unified_reward_rates(server: Server) -> None:
    media = [grey(0), grey(255)]
    scores = unified(server)([PROMPT] * 2, media)
    assert scores == {"alignment": [1, 5], "coherence": [1, 1], "style": [5, 1], "score": [pytest.approx(7 / 3), pytest.approx(7 / 3)]}
    assert unified(server, answer="final")([PROMPT] * 2, media) == {"score": [1, 5]}
    assert words_of(server.asked[0]).endswith(f"Text Caption: [{PROMPT}]")
    server.answers = ["nothing", "Final Score: 4", "nothing"]
    assert unified(server, answer="final", question="How good?")([PROMPT], media[:1]) == {"score": [4]}
    assert words_of(server.asked[-1]) == f"How good?\nText Caption: [{PROMPT}]"
    for answer, dimensions in (("final", ["score"]), ("dimensions", ["alignment", "coherence", "style", "score"])):
        reward = unified(server, answer=answer)
        assert reward([PROMPT], media[:1]) == {dimension: [NAN] for dimension in dimensions}
        (reason,) = unanswered_of(reward)
        assert reason.startswith(
            "unified_reward has no score for item 0 of a call: 'judge' gave no such answer as asked for in 3, the last"
        )


def test_unified_reward_ranks_in_both_orders(server: Server) -> None:
    def lighter_image(question: dict[str, Any]) -> str:
        first, second = (float(np.mean(picture)) for picture in shown_pictures(question, words_first=False)[0])
        return "Both images are equally good." if first == second else f"Image {1 if first > second else 2} is better than Image x."

    server.answers = [lighter_image]
    reward = unified(server, answer="rank")
    assert reward([PROMPT] * 3, [grey(9), grey(200), grey(9)]) == {"score": [0.25, 1.0, 0.25]} and reward.groupwise is True
    server.answers = ["Image 1 is better than Image 2."]
    assert reward([PROMPT] * 2, [grey(9), grey(200)]) == {"score": [0.5, 0.5]}
    server.answers = ["I cannot say"]
    assert reward([PROMPT] * 2, [grey(9), grey(200)]) == {"score": [NAN, NAN]} and len(unanswered_of(reward)) == 2


# VQAScore ---------------------------------------------------------------------------------------------


@pytest.mark.parity("vqa_score")
def test_vqa_score_is_the_probability_of_the_first_token(tiny_llava: Path) -> None:
    import torch
    from PIL import Image as PillowImage
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model, processor = LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval(), AutoProcessor.from_pretrained(tiny_llava)
    random = np.random.default_rng(0)
    pictures = [Image.from_pixels(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(3)]
    prompts = ["word3 word4", "word5", "word3 word4"]
    yes, no = (processor.tokenizer.convert_tokens_to_ids(word) for word in ("word1", "word2"))
    expected = []
    for prompt, picture in zip(prompts, pictures, strict=True):
        written = f"<s> <image>  word9 {prompt} word10 "
        inputs = processor(text=written, images=PillowImage.fromarray(picture.pixels()), return_tensors="pt")
        with torch.no_grad():
            odds = np.exp(model(**inputs).logits[0, -1].double().numpy())
        expected.append((odds[yes] / odds.sum(), odds[yes] / (odds[yes] + odds[no])))
    assert np.ptp(expected, axis=0).min() > 0.001
    settings = {"checkpoint": str(tiny_llava), "question": "word9 {} word10", "answers": ["word1", "word2"], "device": "cpu"}
    for place, formula in enumerate(("yes", "yes_or_no")):
        scores = load_reward("vqa_score", formula=formula, **settings)(prompts, pictures)["score"]
        np.testing.assert_allclose(scores, [each[place] for each in expected], rtol=1e-4)


def test_vqa_score_of_a_batch_is_that_of_singles(tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of unequal lengths: what a shorter one is padded with is seen by nothing, also where a model gives all logits."""
    from transformers import LlavaForConditionalGeneration

    random = np.random.default_rng(0)
    pictures = [Image.from_pixels(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(5)]
    prompts = ["word3", "word4 word5 word6 word7 word8", "word3 word9", "word4", "word11 word12 word13"]
    settings = {"checkpoint": str(tiny_llava), "question": "word9 {} word10", "answers": ["word1", "word2"], "device": "cpu"}
    forwards: list[int] = []
    forward = LlavaForConditionalGeneration.forward

    @functools.wraps(forward)
    def counted(self: Any, *inputs: Any, **named: Any) -> Any:
        forwards.append(len(named["input_ids"]))
        return forward(self, *inputs, **named)

    def gives_all(self: Any, input_ids: Any = None, pixel_values: Any = None, attention_mask: Any = None) -> Any:
        return forward(self, input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask)

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", counted)
    one, three = (load_reward("vqa_score", batch=batch, **settings) for batch in (1, 3))
    expected, found = one(prompts, pictures)["score"], three(prompts, pictures)["score"]
    assert forwards == [1] * 5 + [3, 2] and np.ptp(expected) > 0.001
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", gives_all)
    np.testing.assert_allclose(three(prompts, pictures)["score"], expected, rtol=1e-5)


def test_a_local_judge_s_revision_is_of_its_answers_length_too(tiny_llava: Path) -> None:
    short, long = (UnifiedReward(checkpoint=str(tiny_llava), device="cpu", max_tokens=count).revision for count in (64, 1024))
    assert short != long


def test_a_local_judge_that_thinks_is_taken_at_its_last_word(tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = LocalJudge("vlm_judge", str(tiny_llava), device="cpu")
    monkeypatch.setattr(local, "ask", lambda questions: ["<think>1</think>2", "<think>1"])
    first, second = local.answers([[], []], lambda answer: answer or None)
    assert first == "2" and isinstance(second, ValueError)


def test_a_local_judge_answers_a_batch_as_it_answers_singles(tiny_llava: Path) -> None:
    """Questions of unequal lengths and numbers of pictures."""
    random = np.random.default_rng(0)
    one, three = (LocalJudge("vlm_judge", str(tiny_llava), device="cpu", batch=batch, max_tokens=12) for batch in (1, 3))
    questions = []
    for count in (1, 3, 2, 1, 2):
        seen = [one.show(Image.from_pixels(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))) for _ in range(count)]
        questions.append([text(" ".join(f"word{place}" for place in range(2 * count))), *seen, text("word9")])
    expected = one.ask(questions)
    assert len(set(expected)) > 2
    assert three.ask(questions) == expected
    with pytest.raises(ValueError, match="vlm_judge got batch = 0; give a whole number of at least 1"):
        load_reward("vlm_judge", checkpoint=str(tiny_llava), batch=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"formula": "no"}, "formula = 'no'; choose one of: yes, yes_or_no"),
        ({"question": "Is it?"}, "it holds {} once, where the prompt goes"),
        ({"answers": "Yes"}, "give two words, for yes and for no"),
        ({"answers": ["word1", "word1"]}, "begin with the same token"),
        ({"answers": ["Yes", "No"]}, "the answer 'Yes', which the tokenizer does not know"),
        ({"longest_side": 0}, "longest_side = 0"),
        ({"dtype": "fp8"}, "vqa_score got dtype = 'fp8'; choose one of: auto, float32"),
    ],
)
def test_a_wrong_setting_of_vqa_score_is_named(tiny_llava: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_reward("vqa_score", **{"checkpoint": str(tiny_llava), "device": "cpu", **settings})
