"""What the methods of a comparison must share, and which cannot take part: nothing but the method may differ, or no number compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffalign.backbones import family_of
from pipelines.compare_ground import without_free
from pipelines.compare_jobs import Road
from pipelines.config import Config
from pipelines.prompts import Prompt

SHARED = ("seed", "model", "generate", "score", "encode", "evaluate")  # what all configs must agree on


def outsiders(roads: Sequence[Road]) -> dict[str, str]:
    """Method → why it is left out: its model makes media of another modality than the first one's."""
    modality = modality_of(roads[0])
    return {
        road.name: f"it trains on {modality_of(road)} and {roads[0].name} on {modality}; compare it with others of its own model"
        for road in roads
        if modality_of(road) != modality
    }


def modality_of(road: Road) -> str:
    """What the model of a road makes: image, video or audio."""
    return family_of(road.config.model.backbone).modality


def check_agreement(roads: Sequence[Road], *, own_data: bool = False) -> None:
    """ValueError where a config differs from the first in anything but the method: pairs and training, with own_data samples too."""
    names = [name for name in SHARED if not (own_data and name == "generate")]
    ours = _shared(roads[0].config, names)
    for road in roads[1:]:
        theirs = _shared(road.config, names)
        for key in ours | theirs:
            if ours.get(key) != theirs.get(key):
                data = ", or say own_data=true where the samples are a part of the method" if key.startswith("generate") else ""
                raise ValueError(
                    f"{roads[0].name} and {road.name} differ in {key}: {ours.get(key)!r} and {theirs.get(key)!r}; methods are compared on "
                    f"the same {', '.join(names)}: make them equal, or give {key}=... for all{data}"
                )


def _shared(config: Config, names: Sequence[str]) -> dict[str, Any]:
    values = without_free(config.model_dump(mode="json", include=set(names)))
    return {
        f"{name}.{key}" if isinstance(section, dict) else name: value
        for name, section in values.items()
        for key, value in (section.items() if isinstance(section, dict) else [("", section)])
    }


def check_disjoint(validation: Sequence[Prompt], heldout: Sequence[Prompt]) -> None:
    """ValueError where a validation prompt means the same as a held-out one, in whatever words."""
    judged = {prompt.cluster: prompt.text for prompt in heldout}
    shared = [prompt for prompt in validation if prompt.cluster in judged]
    if shared:
        raise ValueError(
            f"{len(shared)} of {len(validation)} validation prompts mean the same as a held-out one, the first {shared[0].text!r} "
            f"as {judged[shared[0].cluster]!r}: the choice would be made on what is judged; name others "
            "(validation.split=... or validation.file=...)"
        )
