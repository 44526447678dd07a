"""Pairing: groups of scored candidates become preferences, with an account of what was dropped and why.

A group is cut into parts whose members may meet (one source, one size, no identical media); the rule proposes preferences in each part;
filters of pairs, then of the whole set, drop some; controls turn labels around. Nothing depends on the order of the input.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import inf

import numpy as np

from diffalign.data.filters import Judged, meeting_objection, objection, split_group
from diffalign.data.groups import Group, group_candidates
from diffalign.data.pairing_settings import PairingSettings
from diffalign.data.pareto import pareto_pairs
from diffalign.data.ranked_lists import shortened, spread, tied_places, untied
from diffalign.data.records import Kind, Preference
from diffalign.data.set_filters import set_objections
from diffalign.data.source_shortcut import SourceShortcut, source_shortcut

__all__ = ["RULES", "Group", "PairingResult", "PairingSettings", "PairingSummary", "Rule", "group_candidates", "pair_groups"]

HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class Rule:
    """A pairing rule: from the members of a part, best first, their group and the weights of `by`, to the members of each proposed
    preference, best first."""

    kind: Kind | None  # None: as the data say
    propose: Callable[[Sequence[int], Group, Mapping[str, float]], Iterable[tuple[int, ...]]]
    does: str


def _own_vs_rest(ranked: Sequence[int], group: Group, _: Mapping[str, float]) -> list[tuple[int, ...]]:
    own = [index for index in ranked if not group.strategies[index]]
    return [(own[0], other) for other in ranked if other != own[0]] if own else []


def _may_lose(strategy: str, settings: PairingSettings) -> bool:
    return not settings.strategies or strategy in settings.strategies


RULES: dict[str, Rule] = {
    "best_vs_worst": Rule("pair", lambda ranked, *_: [(ranked[0], ranked[-1])], "one pair per prompt, the widest gap"),
    "best_vs_rest": Rule("pair", lambda ranked, *_: [(ranked[0], other) for other in ranked[1:]], "the best against each other sample"),
    "all_pairs": Rule("pair", lambda ranked, *_: combinations(ranked, 2), "every two samples"),
    "pareto": Rule("pair", pareto_pairs, "each sample that no other beats by all scores over each that beats none (CaPO)"),
    "ranked_list": Rule(
        "list", lambda ranked, *_: [tuple(ranked)], "one list per prompt, best first, with scores; `length` makes them equal"
    ),
    "labelled": Rule(
        "labelled", lambda ranked, *_: [(member,) for member in ranked], "single samples, 1 at or above the threshold, else 0"
    ),
    "own_vs_rest": Rule("pair", _own_vs_rest, "the best sample of the prompt itself against each other, of slightly wrong prompts too"),
    "random": Rule(
        "pair", lambda ranked, *_: [(ranked[0], ranked[-1])], "control: the pairs of best_vs_worst, a seeded coin says which is preferred"
    ),
    "imported": Rule(None, lambda ranked, *_: [], "the preferences that came with the data, filtered"),
}


@dataclass(frozen=True)
class PairingSummary:
    """What pairing did.

    groups_read, groups_kept, candidates_read; pairs_kept   preferences of any kind
    candidates_dropped   reason → candidates set aside before the rule: unscored, strategies, deduplicate, alone, same_source, same_size
    pairs_dropped        filter → proposed preferences dropped
    ties                 proposed preferences without a winner, kept or not (of a ranked list: its tied samples)
    across_sources       kept preferences whose samples come from different models (unstable: pain 33)
    shortcut             what the models alone say of which sample is preferred; None where no pair is of different ones
    strategies           what was wrong with the prompt of the candidates read, "" for the group's own → how many they are
    gap_range            (least, largest) gap proposed, or None where no scores are known
    gap_edges (21,), gap_counts (20,) of the kept, gap_proposed (20,) before the pair filters
    """

    rule: str
    by: str
    groups_read: int
    groups_kept: int
    candidates_read: int
    pairs_kept: int
    candidates_dropped: dict[str, int]
    pairs_dropped: dict[str, int]
    ties: int
    across_sources: int
    shortcut: SourceShortcut | None
    strategies: dict[str, int]
    gap_range: tuple[float, float] | None
    gap_edges: tuple[float, ...]
    gap_counts: tuple[int, ...]
    gap_proposed: tuple[int, ...]


@dataclass(frozen=True)
class PairingResult:
    """Preferences sorted by group_id, and the account."""

    preferences: list[Preference]
    summary: PairingSummary


@dataclass(frozen=True)
class _Proposal:
    preference: Preference
    is_across_sources: bool
    judged: Judged
    tied_samples: int
    objection: str | None


def pair_groups(groups: Iterable[Group], settings: PairingSettings) -> PairingResult:
    """Preferences of all groups under `settings`; `groups` may be a stream in any order.

    win_probability is 0.5 for a kept tie, as given for imported votes, else None: a score gap is no log-odds, so σ(gap) is not claimed.
    Raises ValueError on a score that is missing, on a group_id that occurs twice, and where nothing is left (naming what dropped most).
    """
    by_group: dict[str, list[_Proposal]] = {}
    set_aside: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    proposed: list[float] = []
    sources: dict[str, str] = {}
    strategies: Counter[str] = Counter()
    candidates = ties = 0
    for group in groups:
        if group.group_id in by_group:
            raise ValueError(f"group {group.group_id!r} occurs twice; collect all its candidates in one group (group_candidates does)")
        by_group[group.group_id] = []
        candidates += len(group.ids)
        sources.update(zip(group.ids, group.sources, strict=True))
        strategies.update(group.strategies)
        proposals = _imported(group, settings) if settings.rule == "imported" else _ruled(group, settings, set_aside)
        for proposal in proposals:
            ties += proposal.tied_samples
            if proposal.judged.gap is not None:
                proposed.append(proposal.judged.gap)
            if proposal.objection is None:
                by_group[group.group_id].append(proposal)
            else:
                dropped[proposal.objection] += 1
    passed = [(proposal, draw) for group_id in sorted(by_group) for draw, proposal in enumerate(by_group[group_id])]
    objections = set_objections([proposal.preference for proposal, _ in passed], settings)
    dropped.update(objections.values())
    kept = [each for place, each in enumerate(passed) if place not in objections]
    preferences = [_controlled(proposal.preference, draw, settings) for proposal, draw in kept]
    edges = np.linspace(0.0, max(proposed, default=0.0) or 1.0, HISTOGRAM_BINS + 1)
    summary = PairingSummary(
        rule=settings.rule,
        by=settings.source,
        groups_read=len(by_group),
        groups_kept=len({preference.group_id for preference in preferences}),
        candidates_read=candidates,
        pairs_kept=len(preferences),
        candidates_dropped=dict(sorted(set_aside.items())),
        pairs_dropped=dict(sorted(dropped.items())),
        ties=ties,
        across_sources=sum(proposal.is_across_sources for proposal, _ in kept),
        shortcut=source_shortcut(preferences, sources),
        strategies=dict(sorted(strategies.items())),
        gap_range=(min(proposed), max(proposed)) if proposed else None,
        gap_edges=tuple(edges.tolist()),
        gap_counts=tuple(
            np.histogram([proposal.judged.gap for proposal, _ in kept if proposal.judged.gap is not None], bins=edges)[0].tolist()
        ),
        gap_proposed=tuple(np.histogram(proposed, bins=edges)[0].tolist()),
    )
    if not preferences:
        raise ValueError(_nothing_left(summary, settings))
    return PairingResult(preferences, summary)


def _ruled(group: Group, settings: PairingSettings, set_aside: Counter[str]) -> Iterator[_Proposal]:
    """Proposals of a rule that ranks by scores."""
    for name in (*settings.weights, *settings.agreement, *settings.thresholds, *settings.spans):
        _check_score(group, name)
    values = [
        sum(weight * _number(group.scores[name][index]) for name, weight in settings.weights.items()) for index in range(len(group.ids))
    ]
    split = split_group(group, values, settings)
    set_aside.update(split.dropped)
    rule = RULES[settings.rule]
    for part in split.parts:
        ranked = sorted(part, key=lambda index: (-values[index], group.ids[index]))
        for members in rule.propose(ranked, group, settings.weights):
            if not _may_lose(group.strategies[members[-1]], settings):  # an own sample, here to win: rule own_vs_rest
                set_aside["strategies"] += 1
                continue
            tied = tied_places([values[index] for index in members])
            if rule.kind == "list" and settings.ties == "drop":
                members = tuple(members[place] for place in untied(tied, len(members)))
            judged = _judge(group, members, values, settings)
            members = tuple(members[place] for place in spread(len(members), settings.length))
            yield _Proposal(
                preference=_preference(group, members, values, judged, settings),
                is_across_sources=_is_across_sources(group, members),
                judged=judged,
                tied_samples=len(tied) if rule.kind == "list" else int(judged.is_tie),
                objection=objection(judged, settings),
            )


def _imported(group: Group, settings: PairingSettings) -> Iterator[_Proposal]:
    """Proposals of the judgements that came with the data."""
    for name in settings.agreement:
        _check_score(group, name)
    place = {name: index for index, name in enumerate(group.ids)}
    rows = [single for row in group.preferences for single in row.singles()]
    for given in sorted(rows, key=lambda row: (row.samples, row.source, row.user or "", row.context or "")):
        missing = [name for name in given.samples if name not in place]
        if missing:
            raise ValueError(
                f"a preference of group {group.group_id!r} names {missing}, which the group lacks; it has: {', '.join(group.ids)}"
            )
        tied = tied_places(given.scores or ()) if given.kind == "list" else set()
        thin = given.kind == "list" and settings.ties == "drop"
        preference = shortened(given, untied(tied, len(given.samples))) if thin else given
        best, worst, count = place[preference.samples[0]], place[preference.samples[-1]], len(preference.samples)
        is_tie = preference.win_probability == 0.5 or 0 < len(tied) == len(given.samples) - 1
        if preference.scores is not None and len(preference.samples) > 1:
            gap, winner = preference.scores[0] - preference.scores[-1], preference.scores[0]
        else:
            gap, winner = (None if preference.win_probability is None else abs(2 * preference.win_probability - 1)), None
        agreement = tuple(_number(group.scores[name][best]) - _number(group.scores[name][worst]) for name in settings.agreement)
        judged = Judged(gap, winner, agreement, is_tie, count)
        unscored = any(not np.isfinite(difference) for difference in agreement)
        if given.kind == "list":
            preference = shortened(preference, spread(count, settings.length))
        members = tuple(place[name] for name in preference.samples)
        reason = "unscored" if unscored else meeting_objection(group, members, settings) or objection(judged, settings)
        yield _Proposal(preference, _is_across_sources(group, members), judged, len(tied) or int(is_tie), reason)


def _judge(group: Group, members: Sequence[int], values: Sequence[float], settings: PairingSettings) -> Judged:
    best, worst = members[0], members[-1]
    if settings.threshold is not None:
        winner = values[best] if values[best] >= settings.threshold else inf  # an unwanted sample wins nothing: no minimum applies
        return Judged(abs(values[best] - settings.threshold), winner, (), False, len(members))
    ahead = {name: group.scores[name][best] - group.scores[name][worst] for name in (*settings.agreement, *settings.spans)}
    spans = tuple(int(ahead[name] > settings.span_margin) - int(ahead[name] < -settings.span_margin) for name in settings.spans)
    is_tie = not any(spans) if spans else values[best] == values[worst]
    agreement = tuple(ahead[name] for name in settings.agreement)
    keeps = all(_keeps(limits, group.scores[name][best], group.scores[name][worst]) for name, limits in settings.thresholds.items())
    return Judged(values[best] - values[worst], values[best], agreement, is_tie, len(members), spans, keeps)


def _keeps(limits: Mapping[str, float], winner: float, loser: float) -> bool:
    return (
        winner >= limits.get("minimum_winner", -inf)
        and loser >= limits.get("minimum_loser", -inf)
        and limits.get("minimum_gap", -inf) <= round(winner - loser, 9) <= limits.get("maximum_gap", inf)  # 0.5 − 0.45 is 0.05 to people
    )


def _is_across_sources(group: Group, members: Sequence[int]) -> bool:
    return len({group.sources[index] for index in members}) > 1


def _preference(group: Group, members: Sequence[int], values: Sequence[float], judged: Judged, settings: PairingSettings) -> Preference:
    kind = RULES[settings.rule].kind or "pair"
    return Preference(
        group_id=group.group_id,
        prompt=group.prompt,
        samples=tuple(group.ids[index] for index in members),
        kind=kind,
        labels=tuple(int(values[index] >= (settings.threshold or 0.0)) for index in members) if kind == "labelled" else None,
        scores=tuple(float(values[index]) for index in members),
        win_probability=0.5 if judged.is_tie and kind == "pair" else None,
        segment_labels=judged.spans or None,
        source=settings.source,
        context=(group.strategies[members[-1]] or None) if kind == "pair" else None,
    )


def _controlled(preference: Preference, draw: int, settings: PairingSettings) -> Preference:
    """The preference under the controls. The verdict (scores, votes, labels) keeps its place and the samples change theirs, so that
    every objective, also one that reads these scores, sees the judgement turned around; scores that are looked up by sample do not."""
    flips = settings.swap_labels
    # Of (seed, group, draw) alone, through sha512 inside random.seed: the same on every machine and for any order of groups.
    chance = random.Random(f"{settings.seed}:{preference.group_id}:{draw}").random()
    if settings.rule == "random":
        flips ^= chance < 0.5
        preference = replace(preference, source=f"{preference.source} (random labels)")
    elif settings.flip_share:
        flips ^= chance < settings.flip_share
        preference = replace(preference, source=f"{preference.source} ({settings.flip_share:.0%} of labels flipped)")
    if settings.flip_spans and preference.segment_labels is not None:
        turned = random.Random(f"{settings.seed}:spans:{preference.group_id}:{draw}")  # a number for each span, whatever its label
        labels = tuple(-label if turned.random() < settings.flip_spans else label for label in preference.segment_labels)
        source = f"{preference.source} ({settings.flip_spans:.0%} of span labels flipped)"
        preference = replace(preference, segment_labels=labels, source=source)
    if settings.swap_labels:
        preference = replace(preference, source=f"{preference.source} (labels swapped)")
    if not flips:
        return preference
    if preference.labels is not None:
        return replace(preference, labels=tuple(1 - label for label in preference.labels))
    return replace(preference, samples=preference.samples[::-1])


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _check_score(group: Group, name: str) -> None:
    if name not in group.scores:
        known = ", ".join(sorted(group.scores)) or "none"
        raise ValueError(
            f"no score {name!r} for group {group.group_id!r}; scores made so far: {known}. Add it to the stage `score` or change `by`"
        )


def _nothing_left(summary: PairingSummary, settings: PairingSettings) -> str:
    if not summary.groups_read:
        return "no groups to pair: the stage before gave no candidates; run `diffalign generate CONFIG`, or import a set, first"
    counts = Counter(summary.pairs_dropped)  # first, so that they are named where the numbers are equal
    counts.update(summary.candidates_dropped)
    if not counts:
        found = f"rule {settings.rule!r} found no preferences in {summary.groups_read} groups"
        if settings.rule == "pareto":
            return f"{found}: no sample beats another by every score of `by`; name fewer scores, or generate more samples per prompt"
        return f"{found}: the data carry none; choose a rule that ranks by a score"
    name, _ = counts.most_common(1)[0]
    gaps = f" Gaps observed: {summary.gap_range[0]:g} … {summary.gap_range[1]:g}." if summary.gap_range else ""
    setting = {"ties": f"ties={settings.ties!r}"}.get(name, f"{name}={getattr(settings, name)!r}" if name in vars(settings) else name)
    account = [f"{reason}: {count} candidates" for reason, count in summary.candidates_dropped.items()]
    account += [f"{reason}: {count} proposed" for reason, count in summary.pairs_dropped.items()]
    return (
        f"all pairs were filtered out; {setting} dropped most.{gaps} {FIXES[name]}. Of {summary.groups_read} groups: {', '.join(account)}"
    )


FIXES = {
    "unscored": "Run the stage `score` for all candidates, and see there how many the judge did not answer about",
    "deduplicate": "Generate with different seeds, or set deduplicate to false",
    "alone": "Generate at least 2 samples per prompt",
    "same_source": "Generate several samples per model, or set same_source to false",
    "same_size": "Generate several samples per size, or set same_size to false and encode at one size",
    "ties": "Rank by a finer score, or set ties to 'keep'",
    "length": "Lower length, or generate more samples per prompt; samples tied with another count once, unless ties is 'keep'",
    "minimum_gap": "Lower minimum_gap below the largest gap observed",
    "maximum_gap": "Raise maximum_gap above the least gap observed",
    "minimum_winner": "Lower minimum_winner",
    "minimum_judged": "Lower minimum_judged or span_margin",
    "agreement": "Remove scores from agreement",
    "thresholds": "Widen them",
    "order": "Rank by a score that sees what is wrong with the prompts (of pareto: give weights that put its scores on one scale), or "
    "generate more samples of the prompt itself",
    "strategies": "Name other strategies, or none for all",
}
