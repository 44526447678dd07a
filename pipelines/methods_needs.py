"""What a method asks of the data and of the networks, and how to get it: the lines of `diffalign methods NAME` on that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffalign.arguments import defaults
from diffalign.noising import WITHOUT_NETWORKS, load_noising
from diffalign.objectives import OBJECTIVES
from diffalign.stabilisers import READS_PREDICTION

ROWS = {
    "pairs": "a preferred and a dispreferred sample; pair.rule: best_vs_worst, best_vs_rest, all_pairs, own_vs_rest, pareto or imported",
    "lists": "samples in their order, best first; pair.rule: ranked_list, or any of pairs, which are lists of two",
    "labelled": "samples judged one by one, 1 or 0; pair.rule: labelled",
    "segments": "pairs with a label for each span of time; pair.rule: best_vs_worst, best_vs_rest or all_pairs, with pair.spans",
    "positives": "the preferred sample alone; any pair.rule: it takes the first of a pair or list, and every sample labelled 1",
}
TRIPLES = "triples: a gold sample, then winner and loser; pair.rule: ranked_list with pair.length: 3"
LENGTHS = "may differ between samples along the first axis after the channels, which is time; pair.same_size: false, encode.size: null"
OWN_SAMPLES = "beside it the policy's own sample, made while training: train.noising: trajectory, train.own_samples: {size, refresh, steps}"
REFERENCE = {
    None: "none: no forward of a reference",
    "error": "its error alone",
    "prediction": "its whole prediction",
}
WHOSE = {
    "initial": "of the frozen base, or what train.reference says",
    "ema": "of a moving average of the policy (train.reference: ema)",
    "on_policy": "of the policy as it is, without gradient (train.reference: on_policy)",
    "previous_stage": "of the policy as the stage of train.order found it (train.reference: previous_stage)",
    "adapter": "of the base with another adapter, frozen (train.reference: adapter)",
}
READS = {
    "scores": "scores: a score of each sample; train.scores: [reward.dimension, …], by default what the rows were ranked by (pair.by)",
    "labels": "labels: 1 wanted, 0 unwanted; pair.rule: labelled",
    "win_probability": "win_probability: P(first preferred); votes of an imported set, and ½ where pair.ties: keep",
    "segment_labels": "segment_labels: 1, −1 or 0 for each span; pair.spans: [reward.dimension of each span, …]",
    "teacher": "teacher: the prediction of a checkpoint further along than the reference; train.teacher: runs/earlier/train/final",
    "mask": "mask: weights of positions; train.mask: {kind: activation} or {kind: learned}",
    "mismatched": "mismatched: predictions of both networks under another group's prompt",
}
GAP = "gap: of a row's first and last score, by which train.order sorts; pair.by: the reward.dimension that ranks"


def needs_lines(name: str, config: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """(label, text) of the rows, the reference and what is read of both, with what gives each.

    config  of a preset: its pairs, stabilisers, order and noising have a part in it
    """
    needs, config = OBJECTIVES[name], config or {}
    pair, train = config.get("pair", {}), config.get("train", {})
    is_of_triples = needs.triples and pair.get("rule") == "ranked_list"
    fields = [field for each in needs.reads for field in each.split(" or ")]
    again = "or" if len(fields) > len(needs.reads) else ""
    reads = [("reads" if index == 0 else again, READS[field]) for index, field in enumerate(fields)]
    if isinstance(train.get("order"), dict):
        reads.append(("" if reads else "reads", GAP))
    return [
        ("rows", TRIPLES if is_of_triples else f"{needs.rows}: {ROWS[needs.rows]}"),
        *([("or", TRIPLES)] if needs.triples and not config else []),
        *([("lengths", LENGTHS)] if needs.lengths else []),
        *([("", OWN_SAMPLES)] if needs.own_samples else []),
        ("reference", _reference(name, train)),
        *reads,
        *_runs(train.get("noising", "shared")),
    ]


def _reference(name: str, train: Mapping[str, Any]) -> str:
    """What is read of it, by the objective or by a stabiliser before it, and whose it is."""
    read = OBJECTIVES[name].reference
    if read is None:
        return REFERENCE[read]
    reader = next((f", for {each}" for each in READS_PREDICTION if each in train.get("stabilisers", {})), "")
    live = " (train.reference_errors: live)" if reader or read == "prediction" else ""
    given = train.get("reference", "initial")
    return REFERENCE["prediction" if reader else read] + reader + live + "; " + WHOSE[given if isinstance(given, str) else given["name"]]


def _runs(given: str | Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which network a noising runs, as its arguments and defaults say."""
    noising = {"name": given} if isinstance(given, str) else dict(given)
    arguments = defaults(load_noising(**noising))
    if noising["name"] in WITHOUT_NETWORKS or "network" not in arguments:
        return []
    what = f"the {arguments['network']}, without gradient, from each sample to its x_t; train.noising.network: policy or reference"
    return [("runs", what)]
