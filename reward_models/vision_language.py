"""A vision-language model as a judge of pictures: behind an endpoint, or of transformers on this machine."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from diffalign.data.modalities.image import Image
from diffalign.endpoint import Endpoint, json_in
from reward_models.pretrained import checked_dtype, from_pretrained, pretrained_model, settings_digest, torch_device, weights_digest


class Judge(Protocol):
    """A model that is shown pictures and answers in JSON. A question is a list of parts, `text` and what `show` makes of pictures.

    revision   what gave the answers
    questions  how many it can be asked at once
    """

    @property
    def revision(self) -> str: ...
    @property
    def questions(self) -> int: ...

    def show(self, picture: Image) -> dict[str, Any]:
        """A picture as a part of a question."""
        ...

    def ask_json(self, parts: Sequence[dict[str, Any]], check: Callable[[Any], bool]) -> Any:
        """The JSON value in the model's answer; ValueError where none comes that passes `check`."""
        ...


def text(words: str) -> dict[str, Any]:
    """Words as a part of a question."""
    return {"type": "text", "text": words}


class RemoteJudge:
    """A model behind an OpenAI-compatible endpoint; pictures go there as PNG inside the question.

    at_once  questions that may be under way
    """

    def __init__(self, endpoint: Endpoint, at_once: int) -> None:
        self.endpoint, self.questions = endpoint, at_once
        self.revision = f"{endpoint.model}/temperature-{endpoint.temperature:g}"

    def show(self, picture: Image) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64encode(picture.encoded()).decode()}"}}

    def ask_json(self, parts: Sequence[dict[str, Any]], check: Callable[[Any], bool]) -> Any:
        return self.endpoint.ask_json(parts, check)


class LocalJudge:
    """A transformers model for pictures and text (Qwen-VL, SmolVLM, LLaVA, …) that answers greedily, so the same every time.

    checkpoint  a folder that transformers saved, with processor and chat template, or a hub id; see `pretrained.from_pretrained`
    dtype       of the weights, of PRECISIONS
    max_tokens  of an answer
    """

    questions = 1

    def __init__(
        self, reward: str, checkpoint: str, *, revision: str | None = None, device: str = "auto", dtype: str = "auto", max_tokens: int = 256
    ) -> None:
        checked_dtype(reward, dtype)
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.checkpoint, self.max_tokens = checkpoint, max_tokens
        self.device = torch_device(reward, device)
        self.processor = from_pretrained(reward, AutoProcessor, checkpoint, revision)
        if not getattr(self.processor, "chat_template", None):
            raise ValueError(f"{reward} got checkpoint = {checkpoint!r}, whose processor has no chat template; give a model tuned for chat")
        self.model = pretrained_model(reward, AutoModelForImageTextToText, checkpoint, revision, dtype)
        processing = json.loads(self.processor.to_json_string())
        others = settings_digest(self.model.config.to_diff_dict(), processing, self.processor.chat_template)
        self.revision = "/".join([Path(checkpoint).name, weights_digest(self.model), others])
        self.model.to(self.device)

    def show(self, picture: Image) -> dict[str, Any]:
        from PIL import Image as PillowImage

        return {"type": "image", "image": PillowImage.fromarray(picture.pixels())}

    def ask(self, parts: Sequence[dict[str, Any]]) -> str:
        """The model's answer to one message."""
        import torch

        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": list(parts)}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.device, self.model.dtype)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        return self.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]

    def ask_json(self, parts: Sequence[dict[str, Any]], check: Callable[[Any], bool]) -> Any:
        answer = self.ask(parts)
        value = json_in(answer)
        if value is None or not check(value):
            raise ValueError(f"{self.checkpoint!r} gave no such JSON, but {answer[:200]!r}, and would say it again; ask a larger model")
        return value


def endpoint_of(reward: str, settings: Any) -> Endpoint:
    """The endpoint of settings {url, model, …}; ValueError names what is wrong with them and what they may be."""
    try:
        return Endpoint.model_validate(settings)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'endpoint'}: {each['msg']}" for each in error.errors())
        raise ValueError(f"{reward} got endpoint = {settings!r} ({wrong}); it takes: {', '.join(Endpoint.model_fields)}") from error
