"""The configuration of a run: one YAML file, validated; the defaults live in the sections' signatures and nowhere else.

Each stage's section is a class in the stage's own file (`pipelines/generate.py: class Generate(Section)`), imported when a config names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, Field, SerializeAsAny, ValidationError, field_validator, model_validator

from diffalign.did_you_mean import did_you_mean
from diffalign.model_source import holds_lora, source_path
from diffalign.section import Section
from pipelines import ROAD, STAGES
from pipelines.config_file import apply_override, dump_yaml, read_config, read_override

S = TypeVar("S", bound=Section)


class Model(Section):
    """The model that the run starts from."""

    backbone: str = "stable_diffusion"
    source: str  # bundled:shapes, a local diffusers folder, a .safetensors file, or a hub id
    revision: str | None = None
    variant: str | None = Field(
        default=None,
        min_length=1,
        exclude_if=lambda variant: variant is None,
        description="of the files of a folder or hub id: fp16 reads model.fp16.safetensors",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    adapter: str | tuple[str, ...] | None = None  # a LoRA folder to start from, or several, each trained onto the ones before
    denoiser: str | None = Field(default=None, exclude_if=lambda place: place is None)  # to start from: a folder, or a .safetensors file

    vae: str | None = Field(
        default=None,
        exclude_if=lambda place: place is None,
        description="in the place of the source's own autoencoder: a folder, a .safetensors file of one alone, or a hub id",
    )
    quantise: Literal["int8", "nf4", "int8_weight_only", "float8_weight_only"] | None = Field(
        default=None,
        exclude_if=lambda kind: kind is None,
        description="the denoiser's weights, under a LoRA; int8 and nf4 by bitsandbytes, on a GPU, the others by torchao",
    )
    tiled_vae: bool = Field(
        default=False, exclude_if=lambda tiled: not tiled, description="encode and decode large media in tiles, in less memory"
    )
    settings: dict[str, bool | int | float | str] = Field(
        default={}, exclude_if=lambda settings: not settings, description="of the backbone: the named arguments of its `load`"
    )

    @property
    def adapters(self) -> tuple[str, ...]:
        return (self.adapter,) if isinstance(self.adapter, str) else self.adapter or ()

    def other(self, entry: str | Model) -> Model:
        """Another model of the run, a source or a section: what it does not say of backbone, dtype, device, memory and settings is as here.

        Revision, variant, adapter and denoiser are this model's alone; settings and autoencoder are for models of the same family.
        """
        if entry == self.source:
            return self
        shared = ["dtype", "device", "quantise", "tiled_vae"]
        own = {"source": entry} if isinstance(entry, str) else {name: getattr(entry, name) for name in entry.model_fields_set}
        if own.get("backbone", self.backbone) == self.backbone:
            shared += ["backbone", "settings", "vae"]
        return Model.model_validate({name: getattr(self, name) for name in shared} | own)

    def after(self, trained: Path) -> Model:
        """The model that a training ended with, as the start of another: trained is the folder `final` that it wrote."""
        if holds_lora(trained):
            return self.model_copy(update={"adapter": (*self.adapters, str(trained))})
        return self.model_copy(update={"adapter": None, "denoiser": str(trained)})

    def fingerprint(self) -> str:
        """What identifies the weights, without loading them: for local files a hash of names, sizes, first and last bytes; else the hub id.

        FileNotFoundError where a source, adapter or autoencoder that looks like a path is not there.
        """
        parts = [source_fingerprint(part) for part in (self.denoiser, *self.adapters) if part]
        # What is made with them is not to the bit what is without.
        vae = None if self.vae is None else source_fingerprint(self.vae)
        levers = {"quantise": self.quantise, "tiled_vae": self.tiled_vae, "variant": self.variant, "vae": vae}
        own = [f"{name}={value}" for name, value in sorted((self.settings | {name: on for name, on in levers.items() if on}).items())]
        return " + ".join([source_fingerprint(self.source, self.revision), *parts, *own])


def source_fingerprint(source: str, revision: str | None = None) -> str:
    """What identifies the weights of a source: see Model.fingerprint."""
    path = source_path(source)
    if path is None:
        return f"{source}@{revision or 'main'}"
    return files_fingerprint(path)


def files_fingerprint(path: Path, *, contents: bool = True, names: str = "*") -> str:
    """A hash of the names and sizes of a file, or of all files in a folder, and of each one's first and last 256 KiB (contents).

    names  a pattern of the files of a folder that count
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob(names) if file.is_file())
    digest = sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path).as_posix() if file != path else ''}\0{size}\0".encode())
        if contents:
            with file.open("rb") as stream:
                digest.update(stream.read(1 << 18))
                stream.seek(max(0, size - (1 << 18)))
                digest.update(stream.read())
    return f"sha256:{digest.hexdigest()[:24]}"


def section_class(stage: str) -> type[Section]:
    """The section of a stage: class Generate of pipelines/generate.py for 'generate'."""
    return getattr(import_module(f"pipelines.{stage}"), stage.capitalize())


def _validate_section(stage: str, value: Any) -> Section:
    kind = section_class(stage)
    return value if isinstance(value, kind) else _validate(kind, value, stage)


def _validate(kind: type[S], value: Any, *prefix: str) -> S:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ValueError(_describe(error, kind, prefix)) from None


if TYPE_CHECKING:
    from pipelines.encode import Encode
    from pipelines.evaluate import Evaluate
    from pipelines.gallery import Gallery
    from pipelines.generate import Generate
    from pipelines.pair import Pair
    from pipelines.pretrain import Pretrain
    from pipelines.score import Score
    from pipelines.train import Train
else:
    # Imported when a config names them: `diffalign --help` stays fast, and stage files may import this one.
    Generate, Score, Pair, Encode, Train, Evaluate, Gallery, Pretrain = (
        Annotated[SerializeAsAny[Section], BeforeValidator(partial(_validate_section, stage))] for stage in STAGES
    )


class Config(Section):
    """A run: its folder, its seed, its model, and one section per stage. A stage whose section is absent is not part of the road."""

    run: Path
    seed: int = Field(default=0, ge=0, lt=2**63)
    model: Model
    generate: Generate | None = None
    score: Score | None = None
    pair: Pair | None = None
    encode: Encode | None = None
    train: Train | None = None
    evaluate: Evaluate | None = None
    gallery: Gallery | None = None
    pretrain: Pretrain | None = None

    @field_validator("run", mode="before")
    @classmethod
    def _run_is_a_folder(cls, value: Any) -> Any:
        if not isinstance(value, str | Path):
            return value
        if not str(value).strip():
            raise ValueError(f"got {value!r}, a folder for the run is needed, for example run: runs/mine")
        try:
            return Path(value).expanduser()
        except RuntimeError as error:  # ~NAME of a user that is not there
            raise ValueError(f"got {str(value)!r}: {error}; write the folder out") from None

    @model_validator(mode="after")
    def _pair_reads_what_score_makes(self) -> Config:
        if self.pair is not None and self.score is not None:
            self.pair.check_scores(self.score)
        return self

    @model_validator(mode="after")
    def _train_reads_what_pair_makes(self) -> Config:
        if self.pair is not None and self.train is not None:
            self.pair.check_objective(self.train.objective["name"])
        return self

    @model_validator(mode="after")
    def _controls_reach_the_objective(self) -> Config:
        controls = [] if self.pair is None else self.pair.controls
        if controls and self.train is not None and self.train.ranks_by_scores:
            raise ValueError(
                f"{controls[0]} turns samples around, and objective {self.train.objective['name']!r} ranks them by train.scores "
                f"{list(self.train.scores)}, which go with the samples: nothing would change. Set train.scores=[]: the judgement's own "
                f"scores are read then, and keep their places"
            )
        return self

    @model_validator(mode="after")
    def _quantised_weights_are_not_trained(self) -> Config:
        is_trained = self.pretrain is not None or (self.train is not None and self.train.lora is None)
        if self.model.quantise is not None and is_trained:
            raise ValueError(
                f"model.quantise is {self.model.quantise!r}, and quantised weights cannot be trained, only a LoRA on them: "
                f"set train.lora={{rank: 16}}, or remove model.quantise"
            )
        return self

    @property
    def road(self) -> tuple[str, ...]:
        """The stages of this config, in order."""
        return tuple(stage for stage in ROAD if getattr(self, stage) is not None)

    def to_values(self) -> dict[str, Any]:
        """The resolved configuration as JSON values."""
        return _resolved(self)

    def to_yaml(self) -> str:
        """The resolved configuration; it reruns the run."""
        return dump_yaml(self.to_values())


def _resolved(section: BaseModel) -> dict[str, Any]:
    """Plain values of a section, without what is null by default. Another null stays: `clip_norm: null` is not the default."""
    values = section.model_dump(mode="json")
    for name, field in [each for each in type(section).model_fields.items() if each[0] in values]:
        value = getattr(section, name)
        if value is None and field.default is None:
            del values[name]
        elif isinstance(value, BaseModel):
            values[name] = _resolved(value)
    return values


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The Config in a YAML file, or in a bundled one by its name (`quickstart`, `worlds/shapes`), with `key.sub=value` overrides.

    `base: PATH` in the file, or as an override, is the file it is laid over: see `read_config`.
    ValueError: unreadable YAML, an unknown key (with the nearest and the known ones), a wrong type or range.
    FileNotFoundError: no such file or base.
    """
    values, files = read_config(source, overrides)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{files}:\n{_describe(error, Config)}") from None


def read_section(kind: type[S], overrides: Sequence[str]) -> S:
    """A section of `key=value` words alone, for a command that takes no file; ValueError as for a config."""
    values: dict[str, Any] = {}
    for override in overrides:
        apply_override(values, *read_override(override))
    return _validate(kind, values)


def _describe(error: ValidationError, kind: type[BaseModel], prefix: tuple[str, ...] = ()) -> str:
    """One line per mistake: where, what was given, what is allowed."""
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in (*prefix, *item["loc"])) or "the config"
        match item["type"]:
            case "extra_forbidden":
                place = _class_at(kind, item["loc"][:-1])
                key, known = str(item["loc"][-1]), sorted(set(place.model_fields) | ({"base"} if place is Config else set()))
                lines.append(f"unknown key {where!r}{did_you_mean(key, known)}; known here: {', '.join(known)}")
            case "missing":
                lines.append(f"{where} is missing; add it")
            case "value_error":
                message = str(item.get("ctx", {}).get("error", item["msg"]))
                told = not prefix and (not item["loc"] or item["loc"][0] in STAGES)  # the message itself says where
                lines.append(message if told else f"{where}: {message}")
            case "model_type" | "model_attributes_type":
                known = ", ".join(_class_at(kind, item["loc"]).model_fields)
                lines.append(f"{where}: got {_short(item['input'])}, a section (key: value lines) is needed, with keys of: {known}")
            case _:
                lines.append(f"{where}: got {_short(item['input'])}; {item['msg'][:1].lower() + item['msg'][1:]}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _class_at(kind: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The section class at a place in the config, following the fields' annotations."""
    for part in loc:
        field = kind.model_fields.get(str(part))
        if field is not None:
            kind = next((found for found in _models_in(field.annotation)), kind)
    return kind


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def settings_of(section: Section, *, without: Sequence[str] = ()) -> Mapping[str, Any]:
    """A section as plain JSON values for stage.json, without the keys that change speed only (batch_size, device)."""
    return section.model_dump(mode="json", exclude=set(without))
