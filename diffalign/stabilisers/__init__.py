"""The table of stabilisers: what acts on Outputs before the objective. A stabiliser is one function `NAME` in `stabilisers/NAME.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from diffalign.arguments import checked
from diffalign.tensors import Outputs, Rows

# In the order they act. A correction hangs on the policy's prediction: after the safeguard, its gradient too is scaled.
STABILISERS = {
    "winner_safeguard": "the loser's gradient is scaled so that the winner's error does not rise with a margin (arXiv:2511.03317)",
    "list_safeguard": "the winner safeguard of ranked lists: no gradient of the others can raise the best one's error",
    "kl_correction": "the distance to the reference is taken off the drift, so that losers are not run away from (TDPO, arXiv:2404.11999)",
}

# The safeguards need a winner and losers: samples judged singly meet no other one, and of a clip judged by spans each may be either.
ROWS: dict[str, tuple[Rows, ...]] = {
    "winner_safeguard": ("pairs",),
    "list_safeguard": ("lists",),
    "kl_correction": ("pairs", "lists", "labelled", "segments", "positives"),
}

READS_PREDICTION = ("kl_correction",)  # of the reference, whatever the objective reads of it


def build_stabiliser(name: str, **given: Any) -> Callable[[Outputs], Outputs]:
    """The stabiliser with its arguments bound; ValueError for another name or argument, or one out of range."""
    if name not in STABILISERS:
        raise ValueError(f"unknown stabiliser {name!r}; choose one of: {', '.join(STABILISERS)}")
    function = getattr(import_module(f"diffalign.stabilisers.{name}"), name)
    return partial(function, **checked(f"stabiliser {name!r}", function, given))


def reads_last_layer(given: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether one of these reads Outputs.last_layer_gradient."""
    return any(arguments.get("space") == "last_layer" for arguments in given.values())


def check_rows(names: Iterable[str], objective: str, rows: Rows) -> None:
    """ValueError where one of these does not act on what an objective trains on."""
    for name in names:
        if rows not in ROWS[name]:
            fit = [other for other in STABILISERS if rows in ROWS[other]]
            raise ValueError(
                f"stabiliser {name!r} acts on {' and '.join(ROWS[name])}, and objective {objective!r} trains on {rows}; remove it"
                + (f", or take {' or '.join(fit)}" if fit else "")
            )


def build_stabilisers(given: Mapping[str, Mapping[str, Any]]) -> list[Callable[[Outputs], Outputs]]:
    """Stabilisers by name with their arguments, in the order of STABILISERS whatever the order given."""
    built = {name: build_stabiliser(name, **arguments) for name, arguments in given.items()}
    return [built[name] for name in STABILISERS if name in built]
