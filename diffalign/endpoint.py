"""A language or vision model behind an OpenAI-compatible endpoint: one question, one answer, with retries, a rate limit and an account."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from diffalign.section import Section

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # answers of a server that may soon say something else
# Answers that are of the one question: its form, its size, what it shows. 403 is some servers' word for a question that moderation stopped,
# and others' for a key without permission. 401, 402 and 404 are of key, credit and address: no other question would fare better.
REFUSED = {400, 403, 413, 415, 422, 451}
LONGEST_WAIT_SECONDS = 60.0
OWN = ("model", "messages", "temperature", "max_tokens", "max_completion_tokens", "stream")  # of a question's body; an answer is whole
OPENING = re.compile(r"[{[]")


class Unanswered(ValueError):
    """A question that the server refuses, or that the model answers in no form asked for. Another question may have an answer."""


class Answers:
    """Question → an answer that was of use, kept in a file of JSON lines as they come, so that none is paid for twice; safe for threads."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, Lock()
        whole = path.read_bytes() if path.is_file() else b""
        end = whole.rfind(b"\n") + 1
        if end < len(whole):  # a line that a kill has cut off
            with path.open("r+b") as stream:
                stream.truncate(end)
        try:
            self._found: dict[str, str] = dict(json.loads(line) for line in whole[:end].splitlines())
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} has a line that is no answer ({error}); remove the file, and all is asked again") from error

    def find(self, question: str) -> str | None:
        return self._found.get(question)

    def add(self, question: str, answer: str) -> None:
        with self._lock, self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([question, answer], ensure_ascii=False) + "\n")
            self._found[question] = answer


class Account:
    """Questions and tokens so far, and the time of the last question; safe for threads.

    answers  where what was paid for is kept and looked up, or None
    """

    answers: Answers | None = None

    def __init__(self) -> None:
        self.questions = self.prompt_tokens = self.completion_tokens = 0
        self._last, self._lock = 0.0, Lock()

    def add(self, usage: dict[str, Any]) -> None:
        with self._lock:
            self.questions += 1
            self.prompt_tokens += int(usage.get("prompt_tokens") or 0)
            self.completion_tokens += int(usage.get("completion_tokens") or 0)

    def counts(self) -> dict[str, int]:
        """questions, prompt_tokens and completion_tokens."""
        with self._lock:
            return {name: getattr(self, name) for name in ("questions", "prompt_tokens", "completion_tokens")}

    def wait_for_turn(self, per_minute: float | None) -> None:
        """Until the next question may be asked."""
        if per_minute is None:
            return
        with self._lock:
            turn = max(time.monotonic(), self._last + 60 / per_minute)
            self._last = turn
        time.sleep(max(0.0, turn - time.monotonic()))


class Endpoint(Section):
    """Where the model is and how it is asked. Any server of `/chat/completions` will do: vLLM, llama.cpp, Ollama, a provider's.

    The key is read from an environment variable, so that none stands in a config or a run folder.
    """

    url: str  # up to and with /v1
    model: str
    key_variable: str = "OPENAI_API_KEY"  # may be unset where the server asks for none
    temperature: float | None = Field(default=0.0, ge=0)  # null: none is sent, as models that reason ask for
    max_tokens: int = Field(default=1024, ge=1)  # of an answer, thoughts included
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = Field(  # which of its names the server knows
        default="max_tokens", exclude_if=lambda name: name == "max_tokens"
    )
    # What else is in a question's body: {reasoning_effort: low}, {chat_template_kwargs: {enable_thinking: false}}, …
    extra: dict[str, Any] = Field(default={}, exclude_if=lambda extra: not extra)
    timeout_seconds: float = Field(default=120.0, gt=0)
    retries: int = Field(default=5, ge=0)  # of one question, after waits of 1, 2, 4, … seconds, or as long as the server says
    per_minute: float | None = Field(default=None, gt=0)  # questions at most

    _account: Account = PrivateAttr(default_factory=Account)

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError(f"got {value!r}; an address of a server begins with http:// or https://, such as http://localhost:8000/v1")
        return value.rstrip("/")

    @field_validator("extra")
    @classmethod
    def _extra_is_beside_the_rest(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = [name for name in value if name in OWN]
        if taken:
            raise ValueError(f"got {', '.join(taken)}, which the endpoint's other settings say; extra is what they do not: remove it there")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"got {value!r}, which is no JSON ({error}); give texts, numbers, true, false, null, lists and sections"
            ) from error
        return value

    def __eq__(self, other: object) -> bool:
        """By the settings: what has been asked so far is no part of them."""
        return isinstance(other, Endpoint) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def account(self) -> Account:
        """What was asked so far."""
        return self._account

    @property
    def how(self) -> list[Any]:
        """What decides an answer beside the model and the question."""
        return [self.temperature, self.max_tokens, *([self.extra] if self.extra else [])]

    def ask(self, content: str | Sequence[dict[str, Any]]) -> str:
        """The model's answer to one message: text, or parts as the API has them ({"type": "text" or "image_url", …}).

        ConnectionError where the server cannot be reached or keeps failing; Unanswered where it refuses this question, or answers without
        words; ValueError where it refuses any, or is no such server.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content if isinstance(content, str) else list(content)}],
            **({} if self.temperature is None else {"temperature": self.temperature}),
            self.max_tokens_name: self.max_tokens,
            **self.extra,
        }
        found = self._post(json.dumps(body).encode())
        try:
            message = found["choices"][0]["message"]
        except (KeyError, IndexError, TypeError):
            message = None
        if not isinstance(message, dict):
            raise ValueError(f"{self.url} answered {str(found)[:200]}, without choices[0].message; is it an OpenAI-compatible server?")
        self._account.add(found.get("usage") or {})
        answer = message.get("content")
        if not isinstance(answer, str):
            raise Unanswered(f"{self.model!r} answered without words: {str(message)[:200]}")
        return answer

    def name_of(self, content: str | Sequence[dict[str, Any]]) -> str:
        """What identifies a question: who is asked, how, and what."""
        asked = [self.url, self.model, *self.how, content if isinstance(content, str) else list(content)]
        return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]

    def ask_json(self, content: str | Sequence[dict[str, Any]], check: Callable[[Any], bool] = lambda value: True) -> Any:
        """The last JSON value in the model's answer that passes `check`, thoughts left out; asked `retries` times more while none does.

        Unanswered where none does; else as `ask`.
        """
        answer = ""
        for _ in range(self.retries + 1):
            answer = self.ask(content)
            value = json_in(answer, check)
            if value is not None:
                return value
        raise Unanswered(f"{self.model!r} gave no such JSON in {self.retries + 1} answers, the last: {answer[:200]!r}")

    def _post(self, body: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", body, headers)
        failure = ""
        for attempt in range(self.retries + 1):
            self._account.wait_for_turn(self.per_minute)
            wait = min(LONGEST_WAIT_SECONDS, 2.0**attempt)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                failure = f"HTTP {error.code}: {_beginning(error)}"
                if error.code not in AGAIN:
                    kind = Unanswered if error.code in REFUSED else ValueError
                    raise kind(
                        f"{self.url} refused the question to {self.model!r} ({failure}); check url, model and ${self.key_variable}"
                    ) from error
                said = error.headers.get("Retry-After", "")
                wait = min(LONGEST_WAIT_SECONDS, float(said)) if said.replace(".", "", 1).isdigit() else wait
            except json.JSONDecodeError as error:
                raise ValueError(f"{self.url} answered no JSON ({error}); is it an OpenAI-compatible server?") from error
            except (OSError, HTTPException) as error:  # no such host, refused, timed out, cut off
                failure = f"{type(error).__name__}: {error}"
            if attempt < self.retries:
                time.sleep(wait)
        raise ConnectionError(
            f"{self.url} did not answer in {self.retries + 1} attempts, the last: {failure}; start it, or check the address"
        )


def _beginning(answer: urllib.error.HTTPError) -> str:
    """Of what a server says beside a code; "" where it is cut off."""
    try:
        return answer.read(300).decode(errors="replace")
    except (OSError, HTTPException):
        return ""


def after_thoughts(answer: str) -> str:
    """What an answer says behind all that its model thought aloud, <think>…</think>; nothing of one that was cut off in its thoughts."""
    said = answer.rpartition("</think>")[2]
    return "" if "<think>" in said else said


def json_in(answer: str, check: Callable[[Any], bool] = lambda value: True) -> Any:
    """The last JSON object or list in an answer that passes `check`, or None: models draft before they answer."""
    text, decoder, place, last = after_thoughts(answer), json.JSONDecoder(), 0, None
    while (found := OPENING.search(text, place)) is not None:
        try:
            value, place = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            place = found.end()
            continue
        last = value if check(value) else last
    return last
