"""What a reward model is, and the checks that every call to one passes through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from diffalign.data.modalities import Media, modality_of

if TYPE_CHECKING:
    from diffalign.endpoint import Account


class Reward(Protocol):
    """Prompts and media in, numbers out. A pairwise judge is a groupwise reward of two.

    name         the name in REWARD_MODELS
    revision     what gave the numbers (weights, formula): scores of two revisions are never compared
    modalities   of image, video, audio: what it can look at
    dimensions   ("score",), or several: ("objects", "count", ..., "overall")
    groupwise    False: each item alone. True: all candidates of a prompt are in one call, beside those of other prompts, and are compared
                 where their prompts are equal

    A class whose dimensions follow from its settings has a static `dimensions_of(**settings)` beside them, so that a config is checked
    before anything is loaded.
    """

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def modalities(self) -> frozenset[str]: ...
    @property
    def dimensions(self) -> tuple[str, ...]: ...
    @property
    def groupwise(self) -> bool: ...

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """One list per dimension, one float per item, in order; higher is more of what the reward measures.

        NaN is no score: of a judge that did not answer about the item, and says in `unanswered` why.
        """
        ...


def check_call(reward: Reward, prompts: Sequence[str], media: Sequence[Media]) -> None:
    """Raises ValueError unless there is one prompt per item and every item is of a modality that the reward can look at."""
    if len(prompts) != len(media):
        raise ValueError(f"reward {reward.name!r} got {len(prompts)} prompts and {len(media)} media; give one prompt for each item")
    for index, item in enumerate(media):
        modality = modality_of(item)
        if modality not in reward.modalities:
            scored = ", ".join(sorted(reward.modalities))
            raise ValueError(f"reward {reward.name!r} scores {scored}, but item {index} is {modality}; {fitting_rewards(modality)}")


def accounts_of(reward: Reward) -> tuple[Account, ...]:
    """What a reward, and those that it is made of, asked of endpoints so far (its attribute `accounts`); none where it asks nobody."""
    return getattr(reward, "accounts", ())


def unanswered_of(reward: Reward) -> list[str]:
    """Why a reward, and those that it is made of, has no answer to questions asked so far, a sentence each (its attribute `unanswered`)."""
    return getattr(reward, "unanswered", [])


def fitting_rewards(modality: str) -> str:
    """A phrase that lists the rewards of a modality, for error messages."""
    from reward_models import REWARD_MODELS

    names = [name for name, entry in REWARD_MODELS.items() if modality in entry.modalities]
    return f"rewards for {modality}: {', '.join(names) or 'none yet'}"


def check_counts(reward: str, **counts: int) -> None:
    """ValueError for a setting that is no whole number of at least 1."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{reward} got {name} = {value!r}; give a whole number of at least 1")
