"""What is measured at every step, for every kind of rows, and the sentences that say when something is wrong.

Positive is good: win_adv = −drift_w, lose_adv = drift_l. Without a reference there is no advantage, and a margin is between errors as they
are: it may be large before anything is learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean, median, stdev

import torch
from torch import Tensor

from diffalign.tensors import Loss, Outputs, mean_squared_error

BUCKETS = 4
GROUPS_TO_JUDGE = 2500  # two standard errors of an accuracy of one half are 0.02 from here on
SATURATED = 0.04  # of the gradient factor that there was at the start
FORGOTTEN = 0.2  # winners lose this share of what losers lose: displacement. Below it, an objective that holds on is doing its work
BUCKETED = ("win_adv", "lose_adv", "rewards/margins")
OF_A_FIXED_REFERENCE = {"accuracy at chance", "reference moves", "running away"}  # warnings that mean nothing where it moves by design
SINGLE = "single/"  # of numbers of each sample that `summarise` compares over the batch


@torch.no_grad()
def numbers(outputs: Outputs, loss: Loss) -> dict[str, Tensor]:
    """Per group (B,): loss, timestep, raw errors, distance to the reference, and what the rows allow; NaN where a group has no such number.

    Preferred (w) is index 0 and dispreferred (l) the last, in pairs as in lists; where a method ranks a list itself, by several judges, its
    best and its worst (Loss.ranking); of samples judged one by one, the wanted and the unwanted.
    A triple is a gold sample (g) before a pair, and its margin and accuracy are that pair's.
    Advantages are over a reference, so without one there are none; a clip judged by spans has no preferred sample, and none either.
    Accuracy is the share of judged comparisons that the policy has right, a tie ½: the pair; all pairs of a list that the method does not
    rank level, by its own ranking or else the first score; the judged spans. Samples judged one by one are compared over the whole batch,
    by `summarise`.
    """
    error = outputs.error.detach()  # without a stabiliser's correction, which is no improvement
    has_reference = outputs.reference is not None or outputs.known_reference_error is not None
    errors = {"policy": error} | ({"reference": outputs.reference_error} if has_reference else {})
    found = {"loss": loss.value.detach(), "timestep": outputs.timestep.float()}
    compared = _compared(outputs, loss)
    if loss.compared is not None and loss.compared.ndim == 2:
        found |= {f"error/{name}": values.mean(1) for name, values in errors.items()}
    else:
        for side, sign, chosen in _sides(outputs, loss):
            mean = {name: values.where(chosen, torch.nan).nanmean(1) for name, values in errors.items()}
            found |= {f"error/{name}_{side[0]}": values for name, values in mean.items()}
            if has_reference:
                found[f"{side}_adv"] = sign * (mean["reference"] - mean["policy"])
    if loss.margin is not None:
        margin = loss.margin.detach()
        found |= {
            "rewards/margins": margin,
            "negative_margins": (margin < 0).float(),
            "largest_logit": margin.abs(),
        }
        if (slope := _slope(loss)) is not None:
            found["gradient_factor"] = slope
    if compared is not None:
        right = (0.5 * (1 + compared.sign())).where(~compared.isnan(), torch.nan)
        found["rewards/accuracies"] = right if right.ndim == 1 else right.nanmean(1)
        if compared.ndim == 2:
            found["judged"] = (~compared.isnan()).sum(1).float()
    if loss.reward is not None:
        reward = loss.reward.detach()
        if outputs.labels is None:
            found["largest_logit"] = reward.amax(1) - reward.amin(1)
        else:
            found["largest_logit"] = reward.abs().amax(1)
            for index in range(reward.shape[1]):
                found |= {f"{SINGLE}reward/{index}": reward[:, index], f"{SINGLE}label/{index}": outputs.labels[:, index].float()}
    if outputs.reference is not None:
        found["distance"] = mean_squared_error(outputs.policy.detach(), outputs.reference, outputs.lengths).mean(1)
    return found


def _slope(loss: Loss) -> Tensor | None:
    """|∂value/∂margin|, (B,): how much a pair still teaches, σ(−m) for Diffusion-DPO; None where the value is made of something else."""
    if loss.margin is None or not (loss.margin.requires_grad and loss.value.requires_grad):
        return None
    (slope,) = torch.autograd.grad(loss.value, loss.margin, torch.ones_like(loss.value), retain_graph=True, allow_unused=True)
    return None if slope is None else slope.abs()


def _compared(outputs: Outputs, loss: Loss) -> Tensor | None:
    """(B,) or (B, N): differences of reward, above 0 where the policy agrees with the label, NaN where nothing was judged."""
    if loss.reward is None:
        found = loss.margin if loss.compared is None else loss.compared
        return None if found is None else found.detach()
    if outputs.labels is not None:
        return None
    reward = loss.reward.detach()
    first, second = torch.triu_indices(*[reward.shape[1]] * 2, 1, device=reward.device)
    ahead = reward[:, first] - reward[:, second]
    ranking = _ranking(outputs, loss)
    if ranking is None:
        return ahead
    sign = (ranking[:, first] - ranking[:, second]).sign().to(ahead)
    return (sign * ahead).where(sign != 0, torch.nan)


def _ranking(outputs: Outputs, loss: Loss) -> Tensor | None:
    """(B, K), larger better: what the method says that it ranks by, or the first score; None where the rows alone say it, best first."""
    if loss.ranking is not None:
        return loss.ranking.detach()
    return None if outputs.scores is None else outputs.scores[..., 0]


def _sides(outputs: Outputs, loss: Loss) -> list[tuple[str, int, Tensor]]:
    """Name, sign of its advantage and samples (B, K) of the preferred, and of the gold and the dispreferred where there are any."""
    if outputs.labels is not None and loss.reward is not None:
        wanted = outputs.labels > 0
        return [("win", 1, wanted), ("lose", -1, ~wanted)]
    place = torch.arange(outputs.policy.shape[1], device=outputs.policy.device)
    if loss.ranking is not None:  # of samples that are level the first is the best one, and the last the worst
        ranking = loss.ranking.detach()
        best, worst = ranking.argmax(1), len(place) - 1 - ranking.flip(1).argmin(1)
        return [("win", 1, place == best[:, None]), ("lose", -1, place == worst[:, None])]
    first = max(0, len(place) - 2) if loss.margin is not None else 0  # a margin is of the last two, a list has none
    sides = [("win", 1, (place == first)[None])]
    if first:
        sides.append(("gold", 1, (place < first)[None]))
    return sides if len(place) == 1 else [*sides, ("lose", -1, (place == len(place) - 1)[None])]


def summarise(numbers: dict[str, Tensor], timestep_count: int) -> dict[str, float]:
    """Means over the groups of a step's whole batch that have a number, the largest |logit|, and means by bucket of the timesteps.

    Of samples judged one by one: the mean reward of each label, and as accuracy the AUC, the share of wanted–unwanted pairs of the whole
    batch in which the wanted has the higher reward, a tie ½; none of them where a label is absent.
    """
    metrics = {}
    for name, values in numbers.items():
        if name not in ("timestep", "largest_logit") and not name.startswith(SINGLE):
            metrics |= _mean(name, values)
    if "largest_logit" in numbers:
        metrics["largest_logit"] = float(numbers["largest_logit"].max())
    if f"{SINGLE}reward/0" in numbers:
        metrics |= _judged_singly(
            *(torch.cat([numbers[key] for key in numbers if key.startswith(SINGLE + part)]) for part in ("reward", "label"))
        )
    bucket = (numbers["timestep"] * BUCKETS / timestep_count).long().clamp(0, BUCKETS - 1)
    for index in bucket.unique().tolist():
        for name in BUCKETED:
            if name in numbers:
                metrics |= _mean(f"{name}/t_bucket_{index}", numbers[name][bucket == index])
        metrics[f"groups/t_bucket_{index}"] = float((bucket == index).sum())
    return metrics


def _mean(name: str, values: Tensor) -> dict[str, float]:
    """The mean of what is there, under its name; nothing where nothing is."""
    there = values[~values.isnan()]
    return {name: float(there.mean())} if len(there) else {}


def _judged_singly(reward: Tensor, label: Tensor) -> dict[str, float]:
    wanted, unwanted = reward[label > 0], reward[label <= 0].sort().values
    metrics = _mean("rewards/wanted", wanted) | _mean("rewards/unwanted", unwanted)
    if len(metrics) == 2:
        below, upto = (torch.searchsorted(unwanted, wanted, right=right).double() for right in (False, True))
        metrics["rewards/accuracies"] = float((0.5 * (below + upto)).mean() / len(unwanted))
    return metrics


def at_reference(outputs: Outputs) -> Outputs | None:
    """With the reference's prediction in the policy's place, or one of its error where that alone is known; None without either."""
    if outputs.reference is not None:
        return replace(outputs, policy=outputs.reference)
    if outputs.known_reference_error is None:
        return None
    away = outputs.known_reference_error.sqrt()[(..., *[None] * (outputs.target.ndim - 2))]
    return replace(outputs, policy=outputs.target.to(away) + away)


def check_start(
    loss: float, margin: float | None, at_reference: float, margin_at_reference: float | None,
    logit: float | None = None, logit_at_reference: float | None = None,
) -> None:  # fmt: skip
    """Raises ValueError where the first batch, before any update, is not what it is with the reference in the policy's place.

    The margin is compared beside the loss: a term that weighs much more (rpo's winner error) would hide it there. Samples judged one by one
    have none, but a largest |logit|: as many utilities saturated at 1 as at 0 have the loss of the reference. 1 is far above rounding.
    """
    for name, found, expected, absolute in (
        ("loss", loss, at_reference, 1e-6), ("margin", margin, margin_at_reference, 0.01),
        ("largest |logit|", logit, logit_at_reference, 1.0),
    ):  # fmt: skip
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


@dataclass(frozen=True)
class Words:
    """What the sentences call things, by the kind of rows."""

    rows: str
    accuracy: str
    preferred: str
    check: str
    hold: str = ""
    swapped: str = ""


PAIRS = Words(
    "pairs", "implicit accuracy", "chosen", "`chosen` first?", ", or hold on to them: objective rpo, more sft",
    "Are chosen and rejected swapped?",
)  # fmt: skip
TRIPLES = replace(PAIRS, rows="triples", check="gold first, then winner and loser?")
LISTS = Words("lists", "pair concordance", "best", "best first, and high scores good?", swapped="Are the lists in reverse order?")
SINGLES = Words("samples", "AUC", "wanted", "1 for wanted?", ", or weigh them more: desirable", "Are the labels 0 and 1 swapped?")
SPANS = Words("pairs", "accuracy of spans", "better", "1 where index 0 is the better one?")


def _words(metrics: dict[str, float]) -> Words:
    """By what is measured: spans and lists have more than one judgement to a group, and a list has no margin."""
    if "error/policy_g" in metrics:
        return TRIPLES
    if "rewards/wanted" in metrics or "rewards/unwanted" in metrics:
        return SINGLES
    if "judged" in metrics:
        return SPANS if "rewards/margins" in metrics else LISTS
    return PAIRS


def warnings(history: list[dict[str, float]], window: int = 50, *, winners_fall: bool = False, draws: int = 1) -> dict[str, str]:
    """Sentences by kind, from the metrics of all steps so far; the window is in steps. A pure function, so a resumed run says the same.

    A sentence is said only of what the rows and the reference let be measured, in the words of the rows.
    winners_fall: the objective lowers them by design (Needs), which is no displacement. draws: how often a step counts each group.
    """
    said: dict[str, str] = {}
    if not history:
        return said
    last = history[-1]
    words, has_reference = _words(last), any(name.startswith("error/reference") for name in last)
    if last.get("largest_logit", 0.0) > 20:
        cure = f"lower learning_rate (now {last['lr']:.2g}), or lower beta"
        said["large logits"] = f"largest |logit| is {last['largest_logit']:.1f} (above 20): " + (
            cure if has_reference else "without a reference it is of the errors as they are: lower beta (mapo: steps)"
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
    said |= _of_accuracy(history, window, words, has_reference, draws) | _of_advantages(history, window, words)
    if winners_fall:
        said.pop("displacement", None)
    factors = _recent(history, "gradient_factor", window)
    first = next((step["gradient_factor"] for step in history if "gradient_factor" in step), 0.0)  # ½ for Diffusion-DPO
    if factors and (factor := fmean(factors)) < max(SATURATED * first, 0.002):
        said["saturated"] = f"gradient factor {factor:.3g}, {first:.3g} at the start: most {words.rows} teach nothing now. " + (
            f"Stop here, or bring harder {words.rows}"
            if has_reference
            else "Their errors are far apart as they are: lower beta (mapo: steps)"
        )
    distances = _recent(history, "distance", 101)
    if (
        len(distances) == 101
        and distances[0] > 0
        and (growth := fmean(distances[-10:]) / max(fmean(distances[:10]), 1e-12)) > 10
        and len(history) > 200
    ):
        said["running away"] = (
            f"distance to the reference ×{growth:.0f} in 100 steps: expect samples of noise soon; keep the last good checkpoint"
        )
    return said


def _of_accuracy(history: list[dict[str, float]], window: int, words: Words, has_reference: bool, draws: int) -> dict[str, str]:
    """Without a reference ½ is no chance level: which sample has the smaller error is a matter of the samples themselves too."""
    said: dict[str, str] = {}
    groups = sum(history[-1].get(f"groups/t_bucket_{index}", 0.0) for index in range(BUCKETS)) / draws
    needed = math.ceil(GROUPS_TO_JUDGE / max(groups, 1))
    judged = _recent(history, "rewards/accuracies", 2 * needed)[-needed:]  # a step whose labels are all alike has none
    if has_reference and len(judged) == needed and abs((accuracy := fmean(judged)) - 0.5) < 0.02:
        said["accuracy at chance"] = (
            f"{words.accuracy} {accuracy:.2f} ± 0.02 after {int(needed * groups)} {words.rows}: "
            f"check the labels ({words.check}) and the learning rate"
        )
    recent = _recent(history, "rewards/accuracies", window)
    if recent and (accuracy := fmean(recent)) > 0.98:
        said["too easy"] = f"{words.accuracy} {accuracy:.2f}" + (
            f": the {words.rows} are too easy, or beta is too small to hold the policy near the reference"
            if has_reference
            else f" without a reference: the {words.preferred} may be easy to denoise whatever the policy does, such as flat ones; "
            f"judge by held-out rewards, or take an objective with a reference"
        )
    return said


def _of_advantages(history: list[dict[str, float]], window: int, words: Words) -> dict[str, str]:
    wins, losses = _recent(history, "win_adv", window), _recent(history, "lose_adv", window)
    if min(len(wins), len(losses)) < 20 or not _is_below_zero(wins):
        return {}
    win, lose = fmean(wins), fmean(losses)
    if win < -FORGOTTEN * lose < 0:
        return {
            "displacement": f"win_adv falls below 0 ({win:.2g} over {window} steps) while lose_adv rises: likelihood displacement; "
            f"the {words.preferred} are forgotten too. Lower lr, raise beta{words.hold}"
        }
    if _is_below_zero(losses):
        return {
            "against the labels": f"win_adv and lose_adv both fall ({win:.2g}, {lose:.2g}): "
            f"the policy moves against the labels. {words.swapped}"
        }
    return {}
