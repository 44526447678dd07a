"""What the rewards that need no weights share: one number that is measured on each medium by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from diffalign.data.modalities import Media
from reward_models.contract import check_call


class Statistic(ABC):
    """A number of one medium as a reward: no prompt, no weights. A modality's subclass reads the medium, a reward's measures what is read.

    name, modalities  as the contract has them
    """

    name: str
    modalities: frozenset[str]
    dimensions = ("score",)
    groupwise = False

    @property
    def revision(self) -> str:
        return "1"

    @abstractmethod
    def score(self, medium: Media) -> float:
        """The number of a medium of `modalities`."""

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """{"score": one float per item}. Prompts are ignored."""
        check_call(self, prompts, media)
        return {"score": [float(self.score(medium)) for medium in media]}
