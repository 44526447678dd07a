"""A vision-language model as a judge of media: behind an endpoint, or of transformers on this machine."""

from __future__ import annotations

import inspect
import json
import wave
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np
from pydantic import ValidationError

from diffalign.data.modalities import Media, modality_of
from diffalign.data.modalities.image import Image
from diffalign.endpoint import Account, Endpoint, Unanswered, after_thoughts, json_in
from reward_models.pretrained import (
    checked_batch,
    checked_dtype,
    chunks,
    from_pretrained,
    pretrained_model,
    settings_digest,
    torch_device,
    weights_digest,
)

if TYPE_CHECKING:
    from torch import Tensor

    from diffalign.data.modalities.video import Video
    from reward_models.waveforms import Waveform

Found = TypeVar("Found")
Question = Sequence[dict[str, Any]]


class Judge(Protocol):
    """A model that is shown media and answers. A question is a list of parts, `text` and what `show` and `play` make of media.

    revision   what gave the answers
    accounts   of what it was asked so far; none where that costs nothing
    """

    @property
    def revision(self) -> str: ...
    @property
    def accounts(self) -> tuple[Account, ...]: ...

    def show(self, picture: Image) -> dict[str, Any]:
        """A picture as a part of a question."""
        ...

    def play(self, sound: Waveform) -> dict[str, Any]:
        """A sound as a part of a question; ValueError where the model has no ears."""
        ...

    def answers(self, questions: Sequence[Question], read: Callable[[str], Found | None]) -> list[Found | ValueError]:
        """What `read` finds in the answer to each question; Unanswered where it finds nothing, another ValueError where none came."""
        ...


def text(words: str) -> dict[str, Any]:
    """Words as a part of a question."""
    return {"type": "text", "text": words}


def shown(judge: Judge, item: Media, *, frames: int, longest_side: int) -> list[dict[str, Any]]:
    """A medium as parts of a question: a picture, at most `frames` of a video in the middles of equal parts of it, or a sound."""
    modality = modality_of(item)
    if modality == "audio":
        return [judge.play(cast("Waveform", item))]
    if modality == "image":
        return [judge.show(Image.from_pixels(shrunk(cast("Image", item).pixels(), longest_side)))]
    clip = cast("Video", item).frames()
    places = evenly(len(clip), frames)
    return [judge.show(Image.from_pixels(shrunk(clip[place], longest_side))) for place in places]


def evenly(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` places, in the middles of equal parts; all where there are no more."""
    return list(range(count)) if count <= wanted else [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]


def shrunk(pixels: np.ndarray, longest: int) -> np.ndarray:
    """uint8 (H, W, 3) scaled down (Lanczos) so that neither side is over `longest`; as it is where none is."""
    from PIL import Image as PillowImage

    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(PillowImage.fromarray(pixels).resize(size, PillowImage.Resampling.LANCZOS))


def answered(
    judge: Judge, questions: Sequence[Question], read: Callable[[str], Found | None], told: Callable[[int], str], unanswered: list[str]
) -> list[Found | None]:
    """What `read` finds in each answer; None of a question that stays without one, which joins `unanswered` with the reason.

    told  what is said of a question by its place. Raises ValueError, with it, where the fault is not the answer's
    """
    found: list[Found | None] = []
    for place, answer in enumerate(judge.answers(questions, read)):
        if isinstance(answer, ValueError):
            if not isinstance(answer, Unanswered):
                raise ValueError(f"{told(place)}: {answer}") from answer
            unanswered.append(f"{told(place)}: {answer}")
            found.append(None)
        else:
            found.append(answer)
    return found


def json_of(check: Callable[[Any], bool]) -> Callable[[str], Any]:
    """What reads the last JSON value in an answer that passes `check`, whatever stands around it; None where there is none."""
    return partial(json_in, check=check)


class RemoteJudge:
    """A model behind an OpenAI-compatible endpoint; pictures go there as PNG inside the question.

    at_once  questions that may be under way
    """

    def __init__(self, endpoint: Endpoint, at_once: int) -> None:
        self.endpoint, self.at_once = endpoint, at_once
        self.accounts: tuple[Account, ...] = (endpoint.account,)
        temperature = "own" if endpoint.temperature is None else f"{endpoint.temperature:g}"
        more = [settings_digest(endpoint.extra)] if endpoint.extra else []
        self.revision = "/".join([endpoint.model, f"temperature-{temperature}", f"tokens-{endpoint.max_tokens}", *more])

    def show(self, picture: Image) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64encode(picture.encoded()).decode()}"}}

    def play(self, sound: Waveform) -> dict[str, Any]:
        return {"type": "input_audio", "input_audio": {"data": b64encode(wav(sound)).decode(), "format": "wav"}}

    def answers(self, questions: Sequence[Question], read: Callable[[str], Found | None]) -> list[Found | ValueError]:
        """Each question is asked up to the endpoint's `retries` times more while nothing is read; none any more after an error that is of
        no one question, as a wrong key; and none whose answer the account has kept."""
        fatal: list[ValueError] = []
        kept = self.endpoint.account.answers

        def asked(parts: Question) -> Found | ValueError:
            answer, tries, name = "", self.endpoint.retries + 1, "" if kept is None else self.endpoint.name_of(parts)
            try:
                earlier = None if kept is None else kept.find(name)
                if earlier is not None and (found := read(after_thoughts(earlier))) is not None:
                    return found
                for _ in range(tries):
                    if fatal:
                        return fatal[0]
                    answer = self.endpoint.ask(parts)
                    found = read(after_thoughts(answer))
                    if found is not None:
                        if kept is not None:
                            kept.add(name, answer)
                        return found
            except Unanswered as error:
                return error
            except ValueError as error:
                fatal.append(error)
                return error
            return Unanswered(f"{self.endpoint.model!r} gave no such answer as asked for in {tries}, the last: {answer[:200]!r}")

        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(asked, questions))


class LocalJudge:
    """A transformers model for pictures and text (Qwen-VL, SmolVLM, LLaVA, …) that answers greedily, so the same every time.

    checkpoint  a folder that transformers saved, with processor and chat template, or a hub id; see `pretrained.from_pretrained`
    dtype       of the weights, of PRECISIONS
    batch       questions per forward
    max_tokens  of an answer
    """

    accounts: tuple[Account, ...] = ()

    def __init__(
        self, reward: str, checkpoint: str, *, revision: str | None = None, device: str = "auto", dtype: str = "auto", batch: int = 1,
        max_tokens: int = 256,
    ) -> None:  # fmt: skip
        checked_dtype(reward, dtype)
        self.batch = checked_batch(reward, batch)
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.checkpoint, self.max_tokens = checkpoint, max_tokens
        self.device = torch_device(reward, device)
        self.processor = from_pretrained(reward, AutoProcessor, checkpoint, revision)
        if not getattr(self.processor, "chat_template", None):
            raise ValueError(f"{reward} got checkpoint = {checkpoint!r}, whose processor has no chat template; give a model tuned for chat")
        self.model = pretrained_model(reward, AutoModelForImageTextToText, checkpoint, revision, dtype)
        processing = json.loads(self.processor.to_json_string())
        others = settings_digest(self.model.config.to_diff_dict(), processing, self.processor.chat_template, max_tokens)
        self.revision = "/".join([Path(checkpoint).name, weights_digest(self.model), others])
        self.model.to(self.device)

    def show(self, picture: Image) -> dict[str, Any]:
        from PIL import Image as PillowImage

        return {"type": "image", "image": PillowImage.fromarray(picture.pixels())}

    def play(self, sound: Waveform) -> dict[str, Any]:
        raise ValueError(f"{self.checkpoint!r} sees pictures and hears no sound; give an endpoint of a model that does")

    def _inputs(self, questions: Sequence[Question], side: str) -> Any:
        """As the model takes them, shorter ones padded on a side: right or left."""
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = side
        padding = {"padding": True} if len(questions) > 1 else {}
        if padding and tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        chats = [[{"role": "user", "content": list(parts)}] for parts in questions]
        inputs = self.processor.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **padding
        ).to(self.device, self.model.dtype)
        if "token_type_ids" not in inspect.signature(self.model.forward).parameters:
            inputs.pop("token_type_ids", None)  # some tokenizers give them to every model, and transformers 4 then refuses to generate
        return inputs

    def first_tokens(self, questions: Sequence[Question]) -> Tensor:
        """Log-probabilities of the first token of the answer to each, float32 (N, words)."""
        import torch

        found = []
        for part in chunks(questions, self.batch):
            inputs = self._inputs(part, "right")  # so that a question has the places that it has alone, and sees nothing after it
            ends = inputs["attention_mask"].sum(1) - 1
            places, rows = ends.unique(return_inverse=True)
            # Logits of all positions would fill hundreds of megabytes.
            keeps = "logits_to_keep" in inspect.signature(self.model.forward).parameters
            with torch.inference_mode():
                logits = self.model(**inputs, **({"logits_to_keep": places} if keeps else {})).logits
            column = rows if keeps else ends
            found.append(logits[torch.arange(len(part), device=logits.device), column].float().log_softmax(1))
        return torch.cat(found)

    def ask(self, questions: Sequence[Question]) -> list[str]:
        """The model's answers, each to one message."""
        import torch

        found: list[str] = []
        for part in chunks(questions, self.batch):
            inputs = self._inputs(part, "left")  # so that what is written follows what was asked
            with torch.inference_mode():
                tokens = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
            found += self.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return found

    def answers(self, questions: Sequence[Question], read: Callable[[str], Found | None]) -> list[Found | ValueError]:
        """Each asked once: the model would say the same again."""
        found: list[Found | ValueError] = []
        for answer in self.ask(questions):
            value = read(after_thoughts(answer))
            missing = (
                f"{self.checkpoint!r} gave no such answer as asked for, but {answer[:200]!r}, and would say it again; ask a larger model"
            )
            found.append(Unanswered(missing) if value is None else value)
        return found


def endpoint_of(reward: str, settings: Any) -> Endpoint:
    """The endpoint of settings {url, model, …}; ValueError names what is wrong with them and what they may be."""
    try:
        return Endpoint.model_validate(settings)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'endpoint'}: {each['msg']}" for each in error.errors())
        raise ValueError(f"{reward} got endpoint = {settings!r} ({wrong}); it takes: {', '.join(Endpoint.model_fields)}") from error


def judge_of(
    reward: str, endpoint: Any, checkpoint: str | None, *, at_once: int = 4, revision: str | None = None, device: str = "auto",
    dtype: str = "auto", batch: int = 1, max_tokens: int = 256,
) -> Judge:  # fmt: skip
    """The judge of a reward's settings: an endpoint {url, model, …}, or a checkpoint of transformers. ValueError unless one is given."""
    if (endpoint is None) == (checkpoint is None):
        raise ValueError(
            f"{reward} got endpoint = {endpoint!r} and checkpoint = {checkpoint!r}; give one: endpoint {{url: …, model: …}} of a "
            "server, or the checkpoint of a model on this machine"
        )
    if checkpoint is None:
        return RemoteJudge(endpoint_of(reward, endpoint), at_once)
    return LocalJudge(reward, checkpoint, revision=revision, device=device, dtype=dtype, batch=batch, max_tokens=max_tokens)


def wav(sound: Waveform) -> bytes:
    """A sound as a WAV file of 16 bits."""
    samples = np.rint(np.clip(sound.waveform(), -1, 1) * 32767).astype("<i2")
    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(sound.sample_rate_hz)
        file.writeframes(samples.T.tobytes())
    return buffer.getvalue()
