"""Slightly wrong prompts by a language model: each prompt is asked about once, and the answers stay with the candidates made of them.

`candidates/wrong.jsonl` has a line for each prompt, written when its answer comes:

    {"question", "prompt", "wrong": [[strategy, caption], …], "usage": {"questions", "prompt_tokens", "completion_tokens"}}

with the reason as "unanswered" in the place of "wrong" where there are none. `question` is a digest of what was asked of whom, so that the
answers of another model, or to another instruction, are never taken for these. `usage` is what was asked since the line before: what is
paid for is counted, whether or not the run ends well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from unicodedata import category

from diffalign.endpoint import Unanswered
from pipelines.progress import Progress
from pipelines.stage import StageFolder

if TYPE_CHECKING:
    from diffalign.endpoint import Account, Endpoint
    from pipelines.strategies import Perturbed

FILE = "wrong.jsonl"
STRATEGIES = ("drop", "replace", "add", "order")  # that a model may name; whatever else it says is OTHER
OTHER = "other"

INSTRUCTION = (
    "Write {count} captions that are slightly wrong for what this one describes: {caption!r}. Each differs in one thing: a concept is "
    'dropped, replaced by another, added, or the order in time is swapped. Answer with JSON alone: {{"captions": [{{"strategy": "drop" or '
    '"replace" or "add" or "order", "caption": "…"}}]}}'
)


def wrong_prompts(stage: StageFolder, perturbed: Perturbed, prompts: Sequence[str], progress: Progress) -> dict[str, list[tuple[str, str]]]:
    """Prompt → its wrong ones, as strategy and caption: from the stage's file, else from perturbed.endpoint, `at_once` questions at a time.

    ValueError where more than `max_unanswered` prompts have no answer. They are asked about again in the next run; within the limit they
    keep their empty list, so that the candidates of a resumed run are those of one run.
    """
    endpoint = perturbed.endpoint
    if endpoint is None:
        raise ValueError("perturbed has no endpoint, so nobody is asked; its world's rules write the wrong prompts")
    kept = _Answers(stage.path / FILE, _question(endpoint, perturbed.count), endpoint.account)
    left = [prompt for prompt in dict.fromkeys(prompts) if prompt not in kept.found]
    refusals: dict[str, str] = {}
    lock = Lock()

    def ask(prompt: str) -> None:
        try:
            found = ask_for_wrong(endpoint, prompt, perturbed.count)
        except Unanswered as error:
            with lock:
                refusals[prompt] = str(error)
                if len(refusals) > perturbed.max_unanswered:
                    raise ValueError(
                        f"generate.perturbed has no wrong captions for {len(refusals)} prompts, more than max_unanswered="
                        f"{perturbed.max_unanswered}; mend what the server says, or raise generate.perturbed.max_unanswered to leave more "
                        f"groups without. The first: {next(iter(refusals.values()))}"
                    ) from error
        else:
            with lock:
                kept.add(prompt, wrong=found)

    try:
        with progress.bar("ask for wrong prompts", len(left)) as advance, ThreadPoolExecutor(perturbed.at_once) as pool:
            for _ in pool.map(ask, left):
                advance(1)
        if refusals and not any(isinstance(found, list) for found in kept.found.values()):
            raise ValueError(
                f"generate.perturbed has wrong captions for none of {len(refusals)} prompts; mend what the server says, and run again. "
                f"The first: {next(iter(refusals.values()))}"
            )
        for prompt in left:  # only now: of a run that was ended by refusals none is kept
            if prompt in refusals:
                kept.add(prompt, unanswered=refusals[prompt])
    finally:
        kept.add_usage()
    stage.record["usage"] = usage = kept.usage
    progress.say(
        f"generate: {endpoint.model} was asked {usage['questions']} questions of {usage['prompt_tokens']} tokens for wrong prompts, "
        f"answers of {usage['completion_tokens']} tokens"
    )
    without = [kept.found[prompt] for prompt in dict.fromkeys(prompts) if isinstance(kept.found[prompt], str)]
    if without:
        stage.record["unanswered"] = {"prompts": len(without), "first": without[0]}
        progress.say(f"generate: {len(without)} prompts have no wrong captions; the first: {without[0]}", style="yellow")
    return {prompt: [] if isinstance(found := kept.found[prompt], str) else found for prompt in prompts}


class _Answers:
    """The lines of the file: for a question, prompt → its wrong ones, or the reason why there are none; and `usage`, of all lines."""

    def __init__(self, path: Path, question: str, account: Account) -> None:
        self.path, self.question, self.account = path, question, account
        self.counted = account.counts()
        self.usage = dict.fromkeys(self.counted, 0)
        self.found: dict[str, list[tuple[str, str]] | str] = {}
        whole = path.read_bytes() if path.is_file() else b""
        end = whole.rfind(b"\n") + 1
        if end < len(whole):  # a line that a kill has cut off
            with path.open("r+b") as stream:
                stream.truncate(end)
        for line in whole[:end].split(b"\n")[:-1]:
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                fix = "remove the line, and its prompt is asked about again"
                raise ValueError(f"{path} has a line that is no answer ({error}): {line[:200]!r}; {fix}") from error

    def _take(self, row: dict[str, Any]) -> None:
        for key in self.usage:
            self.usage[key] += row["usage"][key]
        if row["question"] == self.question and "prompt" in row:
            answer = row.get("unanswered") or [(strategy, caption) for strategy, caption in row["wrong"]]
            self.found[row["prompt"]] = answer

    def add(self, prompt: str, **answer: Any) -> None:
        """A line with the answer about a prompt: `wrong`, or `unanswered`."""
        self._write({"prompt": prompt, **answer})

    def add_usage(self) -> None:
        """A line for questions that ended in no answer, where there are any."""
        if self.account.counts() != self.counted:
            self._write({})

    def _write(self, row: dict[str, Any]) -> None:
        now = self.account.counts()
        row = {"question": self.question, **row, "usage": {key: value - self.counted[key] for key, value in now.items()}}
        self.counted = now
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._take(row)


def _question(endpoint: Endpoint, count: int) -> str:
    asked = [endpoint.model, *endpoint.how, INSTRUCTION, count]
    return sha256(json.dumps(asked).encode()).hexdigest()[:16]


def ask_for_wrong(endpoint: Endpoint, prompt: str, count: int) -> list[tuple[str, str]]:
    """At most `count` wrong prompts by a language model, as strategy and caption; Unanswered where it gives none."""
    try:
        answer = endpoint.ask_json(INSTRUCTION.format(count=count, caption=prompt), lambda value: bool(captions_in(value, prompt)))
    except Unanswered as error:
        raise Unanswered(f"no wrong captions for {prompt!r}: {error}") from error
    return captions_in(answer, prompt)[:count]


def captions_in(answer: Any, prompt: str) -> list[tuple[str, str]]:
    """What an answer holds, each caption once and none that is the prompt but for case, spaces and punctuation."""
    rows = answer.get("captions") if isinstance(answer, dict) else None
    found: dict[str, tuple[str, str]] = {}
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and isinstance(row.get("caption"), str):
            said = str(row.get("strategy", "")).strip().lower()
            text = " ".join(row["caption"].split())
            found.setdefault(_words_of(text), (said if said in STRATEGIES else OTHER, text))
    return [value for key, value in found.items() if key not in ("", _words_of(prompt))]


def _words_of(text: str) -> str:
    """A text without case and punctuation, one space between its words: two that are equal so say the same."""
    plain = "".join(" " if category(character).startswith("P") else character for character in text)
    return " ".join(plain.split()).casefold()
