"""Items that a judge does not answer about: they have no score (NaN), and are counted over a stage; too many, or all, are an error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reward_models import Reward

MOST = 20  # fewer than a usual shard holds: a server that refuses everything ends the run before a score is written


class Unscored:
    """How many items have no score by a reward, those of earlier runs of the stage too.

    limit   of items; one more is a ValueError
    shards  the scores that are there
    """

    def __init__(self, limit: int, shards: Iterable[Path] = ()) -> None:
        from diffalign.data.shards import read_file

        lacking = [lacks_score(row.values()) for path in shards for row in read_file(path)]
        self.limit, self.count, self.scored = limit, sum(lacking), lacking.count(False)

    def add(self, reward: Reward, found: Mapping[str, Sequence[float]]) -> None:
        """Counts those of a call. ValueError above the limit: how many, and the first reason."""
        from reward_models.contract import unanswered_of

        lacking = [lacks_score(values) for values in zip(*found.values(), strict=True)]
        self.count, self.scored = self.count + sum(lacking), self.scored + lacking.count(False)
        if self.count > self.limit:
            raise ValueError(
                f"reward {reward.name!r} has no score for {self.count} items, more than max_unanswered={self.limit}; mend what it says, or "
                f"raise max_unanswered to leave more of them without a score. The first: {next(iter(unanswered_of(reward)), '')}"
            )

    def require_one(self, reward: Reward, shards: Iterable[Path]) -> None:
        """ValueError where not one item of the whole stage has a score, however few there are: nobody answers, and that is no matter of a
        limit. The shards, which hold nothing, go: all is asked again.
        """
        from reward_models.contract import unanswered_of

        if self.count and not self.scored:
            for path in list(shards):
                path.unlink()
            raise ValueError(
                f"reward {reward.name!r} has a score for none of {self.count} items; mend what it says, and score again. "
                f"The first: {next(iter(unanswered_of(reward)), '')}"
            )


def lacks_score(values: Iterable[object]) -> bool:
    """Whether one of an item's values is NaN."""
    return any(isinstance(value, float) and math.isnan(value) for value in values)
