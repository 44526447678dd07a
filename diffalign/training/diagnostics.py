"""What is measured at every step, and the sentences that say when something is wrong.

Positive is good: win_adv = −drift_w, lose_adv = drift_l.
"""

from __future__ import annotations

import math
from statistics import fmean, median, stdev

import torch
from torch import Tensor

from diffalign.tensors import Loss, Outputs, mean_squared_error

BUCKETS = 4
PAIRS_TO_JUDGE = 2500  # two standard errors of an accuracy of one half are 0.02 from here on
FORGOTTEN = 0.2  # winners lose this share of what losers lose: displacement. Below it, an objective that holds on is doing its work
BUCKETED = ("win_adv", "lose_adv", "rewards/margins")


@torch.no_grad()
def numbers(outputs: Outputs, loss: Loss) -> dict[str, Tensor]:
    """Per group (B,): loss, the raw errors, advantages, margin, accuracy (a tie counts ½), σ(−m), distance to the reference, timestep."""
    error = outputs.error.detach()
    found = {"loss": loss.value.detach(), "timestep": outputs.timestep.float(), "error/policy_w": error[:, 0]}
    has_reference = outputs.reference is not None or outputs.known_reference_error is not None
    if has_reference:
        reference = outputs.reference_error
        found |= {"error/reference_w": reference[:, 0], "win_adv": reference[:, 0] - error[:, 0]}
    if error.shape[1] > 1:
        found["error/policy_l"] = error[:, -1]
        if has_reference:
            found |= {"error/reference_l": reference[:, -1], "lose_adv": error[:, -1] - reference[:, -1]}
    if loss.margin is not None:
        margin = loss.margin.detach()
        found |= {
            "rewards/margins": margin,
            "rewards/accuracies": (margin > 0).float() + 0.5 * (margin == 0).float(),
            "gradient_factor": torch.sigmoid(-margin),
            "negative_margins": (margin < 0).float(),
            "largest_logit": margin.abs(),
        }
    if outputs.reference is not None:
        found["distance"] = mean_squared_error(outputs.policy.detach(), outputs.reference).mean(1)
    return found


def summarise(numbers: dict[str, Tensor], timestep_count: int) -> dict[str, float]:
    """Means over a step's whole batch, the largest |logit|, and means by bucket of the scheduler's own range of timesteps."""
    metrics = {name: float(values.mean()) for name, values in numbers.items() if name not in ("timestep", "largest_logit")}
    if "largest_logit" in numbers:
        metrics["largest_logit"] = float(numbers["largest_logit"].max())
    bucket = (numbers["timestep"] * BUCKETS / timestep_count).long().clamp(0, BUCKETS - 1)
    for index in bucket.unique().tolist():
        for name in BUCKETED:
            if name in numbers:
                metrics[f"{name}/t_bucket_{index}"] = float(numbers[name][bucket == index].mean())
        metrics[f"groups/t_bucket_{index}"] = float((bucket == index).sum())
    return metrics


def check_start(loss: float, margin: float | None, at_reference: float, margin_at_reference: float | None) -> None:
    """Raises ValueError where the first batch, before any update, is not what it is with the reference in the policy's place.

    The margin is compared beside the loss: a term that weighs much more (rpo's winner error) would hide it there.
    """
    for name, found, expected, absolute in (("loss", loss, at_reference, 1e-6), ("margin", margin, margin_at_reference, 0.01)):
        if found is not None and expected is not None and not math.isclose(found, expected, rel_tol=1e-3, abs_tol=absolute):
            raise ValueError(
                f"step 0: {name} is {found:.6g}, expected {expected:.6g} at the reference: the reference is not the starting policy "
                f"(adapter not disabled, dropout on, or wrong weights)"
            )


def _recent(history: list[dict[str, float]], name: str, count: int) -> list[float]:
    return [metrics[name] for metrics in history[-count:] if name in metrics]


def _is_below_zero(values: list[float]) -> bool:
    """Whether a mean lies two standard errors below 0: near the start both advantages are noise around it."""
    return fmean(values) < -2 * stdev(values) / math.sqrt(len(values))


def warnings(history: list[dict[str, float]], window: int = 50) -> dict[str, str]:
    """Sentences by kind, from the metrics of all steps so far; the window is in steps. A pure function, so a resumed run says the same."""
    said: dict[str, str] = {}
    if not history or "rewards/accuracies" not in history[-1]:
        return said
    last = history[-1]
    groups = sum(last.get(f"groups/t_bucket_{index}", 0.0) for index in range(BUCKETS))
    if last["largest_logit"] > 20:
        said["large logits"] = (
            f"largest |logit| is {last['largest_logit']:.1f} (above 20): lower learning_rate (now {last['lr']:.2g}), or lower beta"
        )
    norms = _recent(history, "grad_norm", window)
    if len(norms) >= 20 and norms[-1] > 10 * median(norms[:-1]):
        said["gradient spike"] = (
            f"gradient norm {norms[-1]:.3g} is over 10 × its median {median(norms[:-1]):.3g} of {len(norms)} steps: "
            f"keep clip_norm, lower learning_rate"
        )
    moved = _recent(history, "distance", window)
    if len(moved) >= 10 and not any(moved[-10:]) and any(norms):
        said["reference moves"] = (
            "the policy is still exactly its reference after 10 updates: the reference moves with it (adapter not disabled?), "
            "or nothing is trained"
        )
    if len(history) < window:
        return said
    mean = {
        name: fmean(_recent(history, name, window) or [0.0]) for name in ("win_adv", "lose_adv", "gradient_factor", "rewards/accuracies")
    }
    needed = math.ceil(PAIRS_TO_JUDGE / max(groups, 1))
    accuracies = _recent(history, "rewards/accuracies", needed)
    if len(accuracies) >= needed:
        accuracy = fmean(accuracies)
        if abs(accuracy - 0.5) < 0.02:
            said["accuracy at chance"] = (
                f"implicit accuracy {accuracy:.2f} ± 0.02 after {int(needed * groups)} pairs: "
                f"check the labels (`chosen` first?) and the learning rate"
            )
    if mean["rewards/accuracies"] > 0.98:
        said["too easy"] = (
            f"implicit accuracy {mean['rewards/accuracies']:.2f} with a growing margin: "
            f"the pairs are too easy, or beta is too small to hold the policy near the reference"
        )
    if "win_adv" in last and "lose_adv" in last:
        wins, losses = _recent(history, "win_adv", window), _recent(history, "lose_adv", window)
        if _is_below_zero(wins) and mean["win_adv"] < -FORGOTTEN * mean["lose_adv"] < 0:
            said["displacement"] = (
                f"win_adv falls below 0 ({mean['win_adv']:.2g} over {window} steps) while lose_adv rises: "
                f"likelihood displacement; the chosen are forgotten too. Lower lr, raise beta, or hold on to them: objective rpo, more sft"
            )
        elif _is_below_zero(wins) and _is_below_zero(losses):
            said["against the labels"] = (
                f"win_adv and lose_adv both fall ({mean['win_adv']:.2g}, {mean['lose_adv']:.2g}): "
                f"the policy moves against the labels. Are chosen and rejected swapped?"
            )
    if mean["gradient_factor"] < 0.02:
        said["saturated"] = (
            f"gradient factor {mean['gradient_factor']:.3f}: {100 * (1 - mean['gradient_factor']):.0f}% of the pairs "
            f"teach nothing now. Stop here, or bring harder pairs"
        )
    distances = _recent(history, "distance", 101)
    if (
        len(distances) == 101
        and distances[0] > 0
        and (growth := fmean(distances[-10:]) / max(fmean(distances[:10]), 1e-12)) > 10
        and len(history) > 200
    ):
        said["running away"] = (
            f"distance to the reference ×{growth:.0f} in 100 steps: expect noise images soon; keep the last good checkpoint"
        )
    return said
