"""The file of a configuration as plain values: read, laid over its base, and overridden from the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from diffalign.did_you_mean import did_you_mean
from pipelines import STAGES

NAMES = ("name", "importer")  # the key of a mapping that says whose arguments the other keys are
_REMOVED = object()


def read_config(source: str | Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The values of a file over those of its base, with the overrides over both; and its files, as an error names them.

    base: PATH   the file that is read first: relative to the one that names it, or the name of a bundled config. It may have a base too.
    The override `base=PATH` (relative to where the command runs) takes the place of the file's own base, `base=null` removes it.
    ValueError: unreadable YAML, a file that is its own base, an override that does not fit. FileNotFoundError: no such file or base.
    """
    given = [read_override(override) for override in overrides]
    swaps = [value for parts, value in given if parts == ["base"]]
    files: list[Path] = []
    layers: list[dict[str, Any]] = []
    path: Path | None = config_path(source)
    while path is not None:
        files.append(path)
        if path.resolve() in [file.resolve() for file in files[:-1]]:
            raise ValueError(f"a config is its own base: {' → '.join(map(str, files))}; remove one of these base: lines")
        where = " over ".join(map(str, files))
        values = read_yaml(path.read_bytes(), where)
        if not isinstance(values, dict):
            raise ValueError(
                f"{where} holds {type(values).__name__}, not a mapping; a config starts with keys such as run:, model:, generate:"
            )
        base, folder = values.pop("base", None), path.parent
        if swaps and not layers:
            base, folder = swaps[-1], Path()
        layers.append(values)
        path = None if base is None else _base_path(base, folder, str(path))
    values = reduce(lambda under, over: lay_over(over, under), reversed(layers))
    for parts, value in given:
        if parts != ["base"]:
            apply_override(values, parts, value)
    # `encode:` with nothing under it means: with the defaults; the override `gallery=null` takes the stage off the road.
    values = {key: {} if value is None and key in STAGES else value for key, value in values.items() if value is not _REMOVED}
    return values, " over ".join(map(str, files))


def _base_path(base: Any, folder: Path, file: str) -> Path:
    if not isinstance(base, str) or not base.strip():
        raise ValueError(f"{file}: base is {base!r}; give the path of a YAML file, relative to this one, or the name of a bundled config")
    try:
        return config_path(base, folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} has the base {base!r}: {error}") from None


def lay_over(over: Mapping[str, Any], under: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`: mappings key by key, anything else is replaced.

    A mapping that names something else (objective: {name: …}, source: {importer: …}) takes nothing over: arguments belong to their name.
    """
    if any(key in over and over[key] != under.get(key) for key in NAMES):
        return dict(over)
    both = {key: value for key, value in over.items() if isinstance(value, dict) and isinstance(under.get(key), dict)}
    return {**under, **over, **{key: lay_over(value, under[key]) for key, value in both.items()}}


def dump_yaml(values: Mapping[str, Any]) -> str:
    """A configuration as it is written into a run."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=140)


def bundled_configs() -> Path:
    """The folder of the configs that ship with the project: `configs/` of a checkout, `pipelines/configs/` of an installed wheel."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "configs"


def config_path(source: str | Path, beside: Path = Path()) -> Path:
    """The file that a path, relative to the folder `beside`, or a bundled name means; FileNotFoundError lists the bundled ones."""
    path = beside / source
    if path.is_file():
        return path
    folder = bundled_configs()
    name = Path(source).as_posix().removeprefix("configs/").removesuffix(".yaml")
    names = sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))
    if name in names:
        return folder / f"{name}.yaml"
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder; give a YAML file, or one of the bundled: {', '.join(names)}")
    hint = did_you_mean(name, names)
    raise FileNotFoundError(f"no config {str(source)!r}{hint}; give the path of a YAML file, or one of the bundled: {', '.join(names)}")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number (YAML 1.2) and a repeated key is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key != "<<" and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def read_yaml(text: bytes | str, where: str) -> Any:
    """One YAML document; ValueError names the place of the mistake."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is not readable YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{where} is not readable YAML: nested too deeply") from None


def read_override(override: str) -> tuple[list[str], Any]:
    """The parts of the key and the YAML-typed value of `section.key=value`; ValueError where it cannot be read."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ValueError(f"cannot read the override {override!r}; write key=value or section.key=value, for example train.steps=100")
    return parts, read_yaml(text, f"the value of {key!r}")


def apply_override(values: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    """Sets values[parts[0]][parts[1]]… in place; ValueError where something on the way is no section."""
    target = values
    for index, part in enumerate(parts[:-1]):
        if target.get(part) is None:
            target[part] = {}
        target = target[part]
        if not isinstance(target, dict):
            raise ValueError(f"cannot set {'.'.join(parts)!r}: {'.'.join(parts[: index + 1])} is {target!r}, not a section")
    target[parts[-1]] = _REMOVED if value is None and target is values and parts[0] in STAGES else value
