"""The prompts of a stage: drawn from a miniature world, read from a file or a hub, or written in the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from pipelines.config import Model, Section
from pipelines.prompt_files import CONDITION, FILES, Columns, Written, read_hub_prompts, read_prompts
from reward_models.worlds import WORLDS, load_world

if TYPE_CHECKING:
    from diffalign.data.modalities import Media

GIVEN = ("world", "file", "hub", "texts")


class Prompts(Section):
    """Where the prompts come from: exactly one of `world` (with count), `file`, `hub` and `texts`."""

    world: str | None = None
    split: str = "train"  # of a world, or of a set on a hub
    shares: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        default=None, exclude_if=lambda shares: shares is None, description="of a world's tasks, as {single: 1, pair: 2}; default: its own"
    )
    seed: int | None = Field(default=None, ge=0)  # of the draw from a world; default: the run's seed
    file: Path | None = None  # see pipelines/prompt_files.py; or a folder of .json, one for each style
    hub: str | None = Field(default=None, exclude_if=lambda name: name is None)  # owner/name, or owner/name:subset of a set with several
    revision: str | None = Field(default=None, exclude_if=lambda name: name is None)  # of the set on the hub
    column: str = "prompt"  # of files with columns, and of a hub; PartiPrompts' own name is known
    tags: tuple[str, ...] | None = Field(default=None, exclude_if=lambda names: names is None)  # columns; default: those of PartiPrompts
    condition: str | None = Field(default=CONDITION, exclude_if=lambda name: name == CONDITION)  # column of images; null: none is read
    texts: tuple[str, ...] | None = None
    count: int | None = Field(default=None, ge=1)  # from a world: how many; from a file or a hub: the first so many, default all

    @model_validator(mode="after")
    def _has_one_origin(self) -> Prompts:
        given = [name for name in GIVEN if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of world, file, hub and texts; got {' and '.join(given) or 'none of them'}")
        if self.world is not None and self.world not in WORLDS:
            raise ValueError(f"unknown world {self.world!r}; choose one of: {', '.join(WORLDS)}")
        if self.world is not None and self.count is None:
            raise ValueError("prompts from a world need a count, for example count: 256")
        if self.shares is not None and self.world is None:
            raise ValueError(
                f"shares {self.shares} are of a world's tasks, and the prompts are of no world; remove them, or give world: shapes"
            )
        if self.file is not None and self.file.suffix.lower() not in (*FILES, ""):
            raise ValueError(f"cannot read prompts from {str(self.file)!r}; known endings: {', '.join(FILES)}, or none: a folder of .json")
        if self.hub is not None:
            from diffalign.data.importers.sources import HUB_ID

            if not HUB_ID.fullmatch(self.hub):
                raise ValueError(
                    f"hub is {self.hub!r}; give the name of a set, owner/name or owner/name:subset, or a file: file: {self.hub}"
                )
        if self.revision is not None and self.hub is None:
            raise ValueError(f"revision {self.revision!r} is of a set on a hub, and there is none; remove it, or give hub: owner/name")
        return self

    @property
    def columns(self) -> Columns:
        """Which columns are read."""
        return Columns(self.column, self.tags, self.condition)


@dataclass(frozen=True)
class Prompt:
    """A prompt of a run. Two equal texts are two prompts: group_id is place and text, not text alone."""

    group_id: str
    text: str
    tags: Mapping[str, str] = field(default_factory=dict)
    scene: str | None = None  # from a world: what it means, in the world's plainest words; other prompts may mean the same
    condition: Media | None = None  # the image it came with

    @property
    def cluster(self) -> str:
        """Prompts of one cluster mean the same, as far as is known: no new evidence, but more of the same."""
        return self.identity if self.scene is None else self.scene

    @cached_property
    def identity(self) -> str:
        """What is asked: the text, and the condition's hash."""
        from diffalign.data.conditions import condition_id

        return self.text if self.condition is None else f"{self.text}\0{condition_id(self.condition)}"


def load_prompts(prompts: Prompts, seed: int) -> list[Prompt]:
    """The prompts, in order; `seed` is the run's.

    FileNotFoundError; ValueError on no prompts, a blank one (which), unreadable text, or conditions that some prompts alone have.
    """
    from diffalign.data.conditions import has_conditions
    from diffalign.data.importers.fields import check_text

    scenes: Mapping[str, str] = {}
    if prompts.world is not None:
        draw = seed if prompts.seed is None else prompts.seed
        drawn = load_world(prompts.world).prompts(prompts.split, prompts.count, draw, prompts.shares)
        scenes = {prompt.text: prompt.scene for prompt in drawn}
        rows = [Written(prompt.text, {"task": prompt.task, "split": prompts.split}) for prompt in drawn]
        origin = f"the world {prompts.world!r}"
    elif prompts.file is not None:
        rows, origin = list(read_prompts(prompts.file, prompts.columns)), str(prompts.file)
    elif prompts.hub is not None:
        found = read_hub_prompts(prompts.hub, prompts.columns, prompts.split, prompts.revision)
        rows, origin = list(islice(found, prompts.count)), prompts.hub
    else:
        rows, origin = [Written(text) for text in prompts.texts or ()], "prompts.texts"
    if prompts.count is not None:
        rows = rows[: prompts.count]
    if not rows:
        raise ValueError(f"{origin} holds no prompts; give at least one")
    for index, row in enumerate(rows):
        if not row.text.strip():
            raise ValueError(f"prompt {index + 1} of {origin} is blank; remove it or write what it should say")
        for text in (row.text, *row.tags, *row.tags.values()):
            check_text(text, f"prompt {index + 1} of {origin}")
    has_conditions([row.condition for row in rows], origin)
    return [
        Prompt(f"{index:06d}-{sha256(row.text.encode()).hexdigest()[:8]}", row.text, row.tags, scenes.get(row.text), row.condition)
        for index, row in enumerate(rows)
    ]


def check_conditions(model: Model, prompts: Sequence[Prompt], where: str) -> None:
    """ValueError where the model's family takes no conditions and the prompts have some, or needs them and they have none."""
    from diffalign.backbones import check_condition

    check_condition(model.backbone, any(prompt.condition is not None for prompt in prompts), where)


def refuse_long_prompts(prompts: list[str], backbone: Any) -> None:
    """ValueError that names the prompts which the text encoder would cut."""
    long = [(text, count) for text in dict.fromkeys(prompts) if (count := backbone.token_count(text)) > backbone.token_limit]
    if long:
        shown = "; ".join(f"{text[:60]!r}{'…' if len(text) > 60 else ''} ({count} tokens)" for text, count in long[:3])
        raise ValueError(
            f"{len(long)} of {len(prompts)} prompts are longer than the {backbone.token_limit} tokens the text encoder takes: {shown}; "
            "shorten them, or allow the cut with long_prompts: truncate"
        )
