"""How much a step runs through the networks: what its cost is on any machine, whatever else that machine does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Work:
    """Passes of samples through a denoiser, counted from shapes alone.

    forwards   of policy, reference and teacher, those of an inversion and of own samples too; of a prediction that a cache recalls, or an
               error that was made ahead, as well, since the method asks for it. Not those of a teacher's map, made once for each sample
    backwards  of the policy
    """

    forwards: int = 0
    backwards: int = 0

    def add(self, other: Work) -> None:
        self.forwards += other.forwards
        self.backwards += other.backwards
