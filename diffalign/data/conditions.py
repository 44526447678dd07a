"""What a prompt may carry beside its text: an image that is edited, or the first frame of a video. All samples of a group share it.

A key of the latent cache names a condition at the size of the media it stands beside: "IDENTITY@9x16x32", with ":flipped" after it where it
is mirrored. Without an identity it is what a model sees where its condition is dropped. Of a model that reads prompt and condition together
the prompt is in it too, as a hash: "IDENTITY+PROMPT@16x24".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from diffalign.data.modalities import Media, media_class
from diffalign.data.modalities.signature import modality_of_file

CONDITION = "condition"  # the column, of prompts, of candidates and of the index of latents
MODALITY = "image"
FLIPPED = ":flipped"


def condition_id(condition: Media) -> str:
    """A hash of the encoded file: what a run's identity and the cache know a condition by."""
    return sha256(condition.encoded()).hexdigest()[:32]


def condition_key(identity: str, size: Sequence[int], prompt: str | None = None) -> str:
    """The key in the latent cache, beside media of the shape `size`; identity "": of the dropped condition.

    prompt  that is read together with the condition
    """
    return f"{identity}{_read_with(prompt)}@{'x'.join(map(str, size))}"


def dropped_key(key: str) -> str:
    """The key of the dropped condition of the same size."""
    return "@" + key.removesuffix(FLIPPED).partition("@")[2]


def is_read_with_prompt(key: str) -> bool:
    """Whether a prompt is in the key."""
    return "+" in key


def unprompted_key(key: str) -> str:
    """The key of the same condition with the empty prompt in the place of its own; the same where no prompt is in it."""
    identity, _, beside = key.partition("@")
    return f"{identity.partition('+')[0]}{_read_with('')}@{beside}" if is_read_with_prompt(key) else key


def _read_with(prompt: str | None) -> str:
    return "" if prompt is None else f"+{sha256(prompt.encode()).hexdigest()[:16]}"


def condition_of_row(value: object, where: str) -> Media | None:
    """The image of a column's value {"bytes", "path"}, not decoded; None where there is none."""
    return None if value is None else media_class(MODALITY).from_row(value, f"{where} {CONDITION}")


def check_is_image(condition: Media, where: str) -> Media:
    """The condition; ValueError where it is no image."""
    found = modality_of_file(condition.encoded(), where)
    if found != MODALITY:
        raise ValueError(f"{where}: the condition is {found}; give an image")
    return condition


def has_conditions(conditions: Iterable[Media | None], where: str) -> bool:
    """Whether there are conditions: all or none. ValueError where some are missing."""
    given = [condition is not None for condition in conditions]
    if any(given) and not all(given):
        missing, first = given.count(False), given.index(False) + 1
        raise ValueError(f"{where}: {missing} of {len(given)} have no condition, the first: number {first}; give one to each, or to none")
    return any(given)
