"""A model behind an endpoint, against a server of our own on loopback: answers, failures that pass, and failures that stay."""

from __future__ import annotations

import json
import time
from datetime import date
from hashlib import sha256
from typing import Any

import pytest
from fake_endpoint import Server

from diffalign.endpoint import Endpoint, Unanswered, json_in


def test_a_question_and_its_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "abc")
    endpoint = Endpoint(url=server.url + "/", model="m", key_variable="SECRET", temperature=0.5, max_tokens=9)
    assert endpoint.ask("how many?") == "hello"
    assert server.asked == [{"model": "m", "messages": [{"role": "user", "content": "how many?"}], "temperature": 0.5, "max_tokens": 9}]
    assert server.keys == ["Bearer abc"] and "abc" not in endpoint.model_dump_json()
    monkeypatch.delenv("SECRET")
    parts = [{"type": "text", "text": "and here?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    endpoint.ask(parts)
    assert server.asked[1]["messages"][0]["content"] == parts and server.keys[1] is None
    account = endpoint.account
    assert (account.questions, account.prompt_tokens, account.completion_tokens) == (2, 14, 4)


def test_what_models_that_reason_take_is_sent_and_names_the_question(server: Server) -> None:
    plain = Endpoint(url=server.url, model="m")
    extra = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}
    other = Endpoint(url=server.url, model="m", temperature=None, max_tokens=9, max_tokens_name="max_completion_tokens", extra=extra)
    assert other.ask("?") == "hello"
    assert server.asked == [{"model": "m", "messages": [{"role": "user", "content": "?"}], "max_completion_tokens": 9, **extra}]
    changes = ({}, {"temperature": None}, {"extra": extra}, {"extra": {"reasoning_effort": "high"}})
    assert len({plain.model_copy(update=each).name_of("?") for each in changes}) == len(changes)
    assert {"max_tokens_name", "extra"} & set(plain.model_dump()) == set()  # what was made without them stays current
    assert hash(other) == hash(other.model_copy()) and other != plain
    asked = [server.url, "m", 0.0, 1024, "?"]  # and so do answers that were paid for
    assert plain.name_of("?") == sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"messages": []}, "got messages, which the endpoint's other settings say"),
        ({"top_p": 1, "model": "n", "max_tokens": 3}, "got model, max_tokens, which"),
        ({"stop": date(2026, 1, 1)}, "which is no JSON"),
    ],
)
def test_what_is_sent_beside_cannot_be_what_is_sent_already(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Endpoint(url="http://localhost:1/v1", model="m", extra=extra)


def test_failures_that_pass_are_waited_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("diffalign.endpoint.time.sleep", waited.append)
    server.answers = [(503, {}, "busy"), (429, {"Retry-After": "7"}, "slow"), (500, {"Retry-After": "9999"}, ""), "done"]
    assert Endpoint(url=server.url, model="m").ask("?") == "done"
    assert waited == [1, 7, 60] and len(server.asked) == 4


def test_an_answer_that_is_cut_off_is_asked_for_again(server: Server) -> None:
    """In its body, in that of a refusal that may pass, and before its first line, as servers behind a proxy do."""
    longer = {"Content-Length": "9999"}
    server.answers = [(200, longer, '{"choices": [{"mess'), (503, longer, "bu"), (200, {"Transfer-Encoding": "chunked"}, "5\r\n{"),
                      (503, {"Transfer-Encoding": "chunked"}, "5\r\nbu"), (None, {}, ""), "done"]  # fmt: skip
    assert Endpoint(url=server.url, model="m").ask("?") == "done" and len(server.asked) == 6
    server.answers = [(200, longer, "{")]
    with pytest.raises(
        ConnectionError, match=r"did not answer in 2 attempts, the last: IncompleteRead: .*; start it, or check the address"
    ):
        Endpoint(url=server.url, model="m", retries=1).ask("?")


def test_failures_that_stay_are_told(server: Server) -> None:
    endpoint = Endpoint(url=server.url, model="m", retries=2)
    server.answers = [(503, {}, "busy")]
    with pytest.raises(ConnectionError, match=r"did not answer in 3 attempts, the last: HTTP 503: busy; start it, or check the address"):
        endpoint.ask("?")
    assert len(server.asked) == 3
    server.answers = [(401, {}, "no such key")]
    with pytest.raises(ValueError, match=r"refused the question to 'm' \(HTTP 401: no such key\); check url, model and \$OPENAI_API_KEY"):
        endpoint.ask("?")
    assert len(server.asked) == 4
    server.answers = [(200, {}, "<html>")]
    with pytest.raises(ValueError, match="answered no JSON"):
        endpoint.ask("?")
    server.answers = [(200, {}, '{"choices": []}')]
    with pytest.raises(ValueError, match="is it an OpenAI-compatible server"):
        endpoint.ask("?")
    with pytest.raises(ConnectionError, match="did not answer in 1 attempts"):
        Endpoint(url="http://127.0.0.1:1/v1", model="m", retries=0).ask("?")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((400, {}, "unsafe picture"), r"refused the question to 'm' \(HTTP 400: unsafe picture\)"),
        ((403, {}, "flagged"), "HTTP 403: flagged"),
        ((413, {}, "too large"), "HTTP 413: too large"),
        ((200, {}, json.dumps({"choices": [{"message": {"content": None, "refusal": "no"}}]})), "'m' answered without words: .*refusal"),
    ],
)
def test_a_refusal_of_one_question_is_told_apart(server: Server, answer: object, told: str) -> None:
    server.answers = [answer]
    with pytest.raises(Unanswered, match=told):
        Endpoint(url=server.url, model="m", retries=2).ask("?")
    assert len(server.asked) == 1


@pytest.mark.parametrize("code", [401, 402, 404])
def test_a_refusal_of_every_question_is_another_error(server: Server, code: int) -> None:
    server.answers = [(code, {}, "no")]
    with pytest.raises(ValueError, match="refused the question") as found:
        Endpoint(url=server.url, model="m").ask("?")
    assert not isinstance(found.value, Unanswered)


def test_json_is_found_in_talk_and_asked_for_again(server: Server) -> None:
    endpoint = Endpoint(url=server.url, model="m", retries=2)
    server.answers = ["I cannot", '{"winner": 5}', 'Sure!\n```json\n{"winner": 1}\n```']
    assert endpoint.ask_json("?", lambda value: value.get("winner") in (0, 1)) == {"winner": 1}
    server.answers = ["never"]
    with pytest.raises(ValueError, match=r"'m' gave no such JSON in 3 answers, the last: 'never'"):
        endpoint.ask_json("?")
    assert json_in('a {b} {"d": 3} [1, {"c": 2}] }') == [1, {"c": 2}] and json_in("{" * 100_000) is None


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('<think>{"winner": 0}? No.</think>{"winner": 1}', {"winner": 1}),
        ('{"winner": 0}? No.\n</think>\n\n{"winner": 1}', {"winner": 1}),  # the template has begun the thought
        ('<think>a</think><think>{"winner": 0}</think> {"winner": 1}', {"winner": 1}),
        ('Draft: {"winner": 0}. Final: {"winner": 1} [of {"winners": 2}]', {"winner": 1}),
        ('<think>{"winner": 0}</think>', None),
        ('<think>{"winner": 0}, or {"winner": 1}', None),
        ('<think>a</think>{"winner": 0}<think>{"winner": 1}', None),
    ],
)
def test_thoughts_and_drafts_are_no_answer(answer: str, found: object) -> None:
    assert json_in(answer, lambda value: isinstance(value, dict) and "winner" in value) == found


def test_a_rate_is_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("diffalign.endpoint.time.sleep", waited.append)
    endpoint = Endpoint(url=server.url, model="m", per_minute=60)
    before = time.monotonic()
    for _ in range(3):
        endpoint.ask("?")
    assert waited[0] == 0 and sum(waited) == pytest.approx(1 + 2, abs=2 * (time.monotonic() - before) + 0.05)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "localhost:8000", "ftp://host/v1"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="begins with http:// or https://"):
        Endpoint(url=url, model="m")


def test_endpoints_are_equal_by_their_settings() -> None:
    first, second = (Endpoint(url="http://localhost:1/v1", model="m") for _ in range(2))
    first.account.add({"prompt_tokens": 3})
    assert first == second and hash(first) == hash(second) and first != second.model_copy(update={"model": "n"})
