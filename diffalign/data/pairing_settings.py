"""The settings of pairing: which samples meet, and which pairs are worth keeping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

RuleName = Literal[
    "best_vs_worst", "best_vs_rest", "all_pairs", "pareto", "ranked_list", "labelled", "own_vs_rest", "random", "imported"
]  # fmt: skip


LIMITS = ("minimum_winner", "minimum_loser", "minimum_gap", "maximum_gap")


@dataclass(frozen=True)
class PairingSettings:
    """How groups become preferences.

    rule            a name of RULES
    by              "reward.dimension" that ranks, or a mapping of several to weights (weighted sum of raw scores: weights set the scale);
                    None with rule "imported", whose order came with the data. Rule "pareto" takes its fronts of the scores one by one, and
                    of the sum the order: a pair of the fronts that it ranks the other way is dropped
    minimum_gap     a pair whose gap best − worst is smaller is dropped; in the units of `by`. Labelled: distance from the threshold.
    maximum_gap     a pair whose gap is larger is dropped (too easy: accuracy 1.0 soon, outputs no better; pain 14), or None
    minimum_winner  a pair whose best score is smaller is dropped (a bad sample is not to be learnt because another is worse), or None
    agreement       scores that must not disagree with the order (equal is no disagreement)
    thresholds      score → {minimum_winner, minimum_loser, minimum_gap, maximum_gap}, any of them: what a pair must keep for that score too
                    (Tango 2 filters by two judges so)
    strategies      only samples of such wrong prompts, "" for those of the group's own prompt; () : all. With own_vs_rest they are the
                    losers: the winner is of the group's own prompt in any case
    spans           a "reward.dimension" for each span of time, in order: a pair gets segment_labels, 1 where its first sample is better by
                    more than span_margin, −1 where its second is, else 0. Then it is a tie only where all spans are
    span_margin     in the units of `spans`
    minimum_judged  a pair with a smaller share of spans that are not 0 is dropped (DenseDPO: 0.2)
    length          ranked_list, imported: samples of every list, the best, the worst and evenly spread ranks between; a group that has
                    fewer, after `ties` and `deduplicate`, is dropped. None: all there are, so that lists may differ in length, and
                    training needs one
    ties            gap exactly 0: "drop", or "keep" as a pair with win_probability 0.5. A ranked list loses or keeps its tied samples.
    deduplicate     of identical media in a group, keep the first id
    same_source     pair only samples of one model (pains 10, 33)
    same_size       pair only samples of one size: training batches by shape. Images: pixels; videos: also frames and their rate; sounds:
                    how long they last, whatever their rate and channels. False keeps the others: encode.size brings them to one size
    threshold       labelled: a score ≥ threshold gets label 1, else 0
    top             only the preferences of the k groups with the best winners, after the filters above; None: of all groups
    positive_share  labelled: share of label 1, in (0, 1); rows of the label there is too much of are dropped, drawn by `seed`; None: as is
    swap_labels     control: every judgement turned around, after all filters
    flip_share      control: of the judgements, those turned around, drawn by `seed`, in [0, ½]; a larger share includes a smaller
    flip_spans      control: of the labels of spans that are not 0, those turned around, each by itself, drawn by `seed`, in [0, ½]; a
                    larger share includes a smaller, and the pair keeps its order
    seed            of rule "random", of positive_share, of flip_share and of flip_spans
    """

    rule: RuleName = "best_vs_worst"
    by: str | Mapping[str, float] | None = None
    minimum_gap: float = 0.0
    maximum_gap: float | None = None
    minimum_winner: float | None = None
    agreement: tuple[str, ...] = ()
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    strategies: tuple[str, ...] = ()
    spans: tuple[str, ...] = ()
    span_margin: float = 0.0
    minimum_judged: float = 0.0
    length: int | None = None
    ties: Literal["drop", "keep"] = "drop"
    deduplicate: bool = True
    same_source: bool = True
    same_size: bool = True
    threshold: float | None = None
    top: int | None = None
    positive_share: float | None = None
    swap_labels: bool = False
    flip_share: float = 0.0
    flip_spans: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        rules = get_args(RuleName)
        if self.rule not in rules:
            raise ValueError(f"unknown pairing rule {self.rule!r}; choose one of: {', '.join(rules)}")
        for name in ("agreement", "strategies", "spans"):
            names = getattr(self, name)
            if isinstance(names, str):
                raise ValueError(f"{name} is a list of names, got the text {names!r}; write {name}: [{names}]")
            object.__setattr__(self, name, tuple(names))
        if self.rule == "imported":
            if self.by is not None:
                raise ValueError(f"rule 'imported' takes the order that came with the data; remove by={self.by!r}, or choose another rule")
        elif not self.by:
            raise ValueError(f"rule {self.rule!r} ranks by a score: set `by` to a reward.dimension (such as shapes.overall)")
        for name, weight in self.weights.items():
            if not math.isfinite(weight) or weight == 0:
                raise ValueError(f"weight of {name!r} in `by` is {weight}; give a finite number other than 0, or remove the line")
        if not (math.isfinite(self.minimum_gap) and self.minimum_gap >= 0):
            raise ValueError(f"minimum_gap is {self.minimum_gap}; it is finite and ≥ 0")
        if self.maximum_gap is not None and not self.maximum_gap >= self.minimum_gap:
            raise ValueError(
                f"maximum_gap {self.maximum_gap} lies below minimum_gap {self.minimum_gap}: nothing would pass; raise it or set null"
            )
        if self.minimum_winner is not None and math.isnan(self.minimum_winner):
            raise ValueError("minimum_winner is NaN; give a number or null")
        for name, limits in self.thresholds.items():
            unknown = sorted(set(limits) - set(LIMITS))
            if unknown or not limits or not all(map(math.isfinite, limits.values())):
                raise ValueError(f"thresholds of {name!r} are {dict(limits)}; give finite numbers for any of: {', '.join(LIMITS)}")
        if self.thresholds and self.rule in ("ranked_list", "labelled", "imported"):
            raise ValueError(f"thresholds are of pairs, and rule {self.rule!r} makes none; choose such as best_vs_worst")
        if self.ties not in ("drop", "keep"):
            raise ValueError(f"ties is {self.ties!r}; choose one of: drop, keep")
        if self.ties == "keep" and self.minimum_gap > 0:
            raise ValueError(f"ties 'keep' with minimum_gap {self.minimum_gap}: a tie has gap 0; set minimum_gap to 0 or ties to 'drop'")
        if self.rule == "labelled":
            if self.threshold is None or not math.isfinite(self.threshold):
                raise ValueError(f"rule 'labelled' needs a finite threshold, got {self.threshold}; scores at or above it get label 1")
            if self.agreement:
                raise ValueError(f"rule 'labelled' judges samples singly; agreement {list(self.agreement)} compares two: remove it")
        elif self.threshold is not None:
            raise ValueError(f"threshold {self.threshold} belongs to rule 'labelled', not {self.rule!r}; remove it, or set minimum_winner")
        if self.spans and self.rule in ("ranked_list", "labelled", "imported"):
            raise ValueError(f"spans {list(self.spans)} label pairs, and rule {self.rule!r} makes none; choose such as best_vs_worst")
        if not self.spans and (self.span_margin or self.minimum_judged):
            raise ValueError("span_margin and minimum_judged are of spans, and there are none; remove them, or name a score for each span")
        if not (math.isfinite(self.span_margin) and self.span_margin >= 0):
            raise ValueError(f"span_margin is {self.span_margin}; it is finite and ≥ 0")
        if not 0 <= self.minimum_judged <= 1:
            raise ValueError(f"minimum_judged is {self.minimum_judged}; a share of the spans lies in 0 … 1")
        if self.length is not None and self.rule not in ("ranked_list", "imported"):
            raise ValueError(f"length {self.length} belongs to rule 'ranked_list', not {self.rule!r}; remove it, or choose that rule")
        if self.length is not None and self.length < 2:
            raise ValueError(f"length is {self.length}; a list has 2 samples or more: give such a number, or null for all samples")
        if self.top is not None and self.top < 1:
            raise ValueError(f"top is {self.top}; give the number of groups to keep, 1 or more, or null for all groups")
        if not 0 <= self.flip_share <= 0.5:
            raise ValueError(f"flip_share is {self.flip_share}; it lies between 0 and 0.5; for more, use swap_labels")
        if not 0 <= self.flip_spans <= 0.5:
            raise ValueError(f"flip_spans is {self.flip_spans}; it lies between 0 and 0.5; for more, use swap_labels")
        if self.flip_spans and not (self.spans or self.rule == "imported"):
            raise ValueError(
                f"flip_spans {self.flip_spans} is of labels of spans, and there are none; remove it, or name a score for each span"
            )
        if self.flip_share and self.rule == "random":
            raise ValueError(f"flip_share {self.flip_share} with rule 'random', whose labels say nothing already; remove one of them")
        if self.positive_share is not None:
            if self.rule not in ("labelled", "imported"):
                raise ValueError(f"positive_share {self.positive_share} belongs to rule 'labelled', not {self.rule!r}; remove it")
            if not 0 < self.positive_share < 1:
                raise ValueError(f"positive_share is {self.positive_share}; both labels are kept, so it lies between 0 and 1, such as 0.8")

    @property
    def weights(self) -> Mapping[str, float]:
        """Score name → weight; empty with rule "imported"."""
        if self.by is None:
            return {}
        return {self.by: 1.0} if isinstance(self.by, str) else self.by

    @property
    def source(self) -> str:
        """What a preference says judged it."""
        if isinstance(self.by, str):
            return self.by
        return " + ".join(f"{weight:g}·{name}" for name, weight in self.weights.items())
