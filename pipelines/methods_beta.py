"""β of a method, and what other projects would write for one that pulls as hard: the end of `diffalign methods NAME`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from diffalign.objectives import OBJECTIVES, objective_function

SCALE = {
    "difference": "a scale-free link on differences of reward: β alone says how far the policy may go",
    "absolute": "rewards or margins meet a fixed number, so β says how far is far: a reward of 1 is a drift of 2/β in squared error",
    "surrogate": "errors become log-ratios or probabilities by κ first, and what is not linear there changes with the scale",
}
NO_BETA = {
    "dro": "fixed at 2: its margin is in mean-squared error as it is",
    "mapo": "none; for small errors it acts as β = steps·scale, 500 at the defaults, without a reference",
    "asft": "none; κ says what an error is worth",
    "orpo": "none; κ says what an error is worth",
}
# Theirs is β over the number: for ε errors, mean-reduced. A number stands where it is one; other terms are words. Where no objective is
# named their loss is Diffusion-DPO's, and the β that pulls as hard stands for ours.
ELSEWHERE: tuple[tuple[str, float | str, tuple[str, ...]], ...] = (
    ("Diffusion-DPO, Tango 2, TangoFlux, VideoDPO, InPO, SmPO", 1, ()),
    ("diffusers' research script for SDXL", 1, ()),
    ("diffusers' research script for SD 1.5, align-anything", 2, ()),
    ("Curriculum-DPO's script (2000, written into it)", 1, ()),
    ("flow_grpo (Flow-DPO; on velocity errors, where 100 is usual)", 1, ()),
    ("SimpleTuner (sum over N latent elements)", "β / N", ()),
    ("papers in the sum form, βTω·‖·‖² (sum over N latent elements)", "βTω = β / (2N)", ()),
    ("D3PO, SPO, LPO (log-ratios of sampling steps of deviation σ_step)", "β·σ_step², on posterior means", ()),
    ("Diffusion-KTO", 2, ("diffusion_kto", "kto")),
    ("RankDPO, DenseDPO, as their papers write it (if their norm is a mean)", 2, ("rankdpo", "densedpo")),
    ("CaPO, as its paper writes it", 2, ("capo",)),
)
LANGUAGE_MODELS = ("language models, of log-ratios u = −κ·drift", "β_LM = β / (2κ)")


def scale_line(name: str, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """(label, text) of what β means."""
    return ("β", SCALE[OBJECTIVES[name].scale] if "beta" in arguments else NO_BETA.get(name, "none"))


def beta_elsewhere(name: str, arguments: Mapping[str, Any], stabilisers: Iterable[str] = ()) -> str:
    """A paragraph on the β among the arguments of an objective, behind stabilisers; "" where there is none."""
    if "beta" not in arguments:
        return ""
    beta, equivalent = arguments["beta"], pull(name, arguments)
    if OBJECTIVES[name].reference is None:
        scale = "of errors as they are: without a reference there is none to start from"
    elif equivalent is None:
        scale = "of the implicit reward −(β/2)·drift; how hard a row pulls depends on its scores or labels"
    elif equivalent < 0:
        scale = "which at the reference pulls against the labels, as no β of Diffusion-DPO does"
    else:
        scale = f"which pulls at the reference as Diffusion-DPO does with β = {equivalent:g}"
    if "winner_safeguard" in stabilisers:
        scale += ", on the loser λ times as hard"
    lines = "\n".join(f"  {project:<72}{theirs}" for project, theirs in _elsewhere(name, beta, equivalent))
    return f"\n\nβ = {beta:g}, {scale}; in other projects' terms\n{lines}"


def pull(name: str, arguments: Mapping[str, Any]) -> float | None:
    """4·∂L/∂d at policy = reference, d = Δ_w − Δ_l with Δ_w + Δ_l held: the β of a Diffusion-DPO (∂L/∂d = β/4) as strong.

    Exact for every link, by autograd. None where it is not the objective's alone: it depends on scores or labels, or on the errors.
    A correction changes nothing here: its gradient is 0 at the reference.
    """
    import torch

    from diffalign.tensors import Outputs

    needs = OBJECTIVES[name]
    if needs.rows != "pairs" or needs.reference is None or not {"teacher", "mask"}.issuperset(needs.reads):
        return None
    error = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    policy = error.sqrt()[..., None, None]  # (1, 2, 1, 1): against a target of 0 these are its errors
    same, nothing = policy.detach(), torch.zeros_like(policy)
    outputs = Outputs(policy, nothing, torch.zeros(1), reference=same, teacher=same, mask=torch.ones_like(same))
    [slope] = torch.autograd.grad(objective_function(name)(outputs, **arguments).value.sum(), error)
    return float(2 * (slope[0, 0] - slope[0, 1]))


def _elsewhere(name: str, beta: float, equivalent: float | None) -> list[tuple[str, str]]:
    """Projects that measure from a reference say nothing of a β on errors as they are."""
    if OBJECTIVES[name].reference is None:
        return [LANGUAGE_MODELS]
    theirs = []
    for project, over, only in ELSEWHERE:
        if name in only or (not only and (equivalent is None or equivalent > 0)):
            ours = beta if only or equivalent is None else equivalent
            theirs.append((project, over if isinstance(over, str) else f"β = {ours:g}" if over == 1 else f"β / {over:g} = {ours / over:g}"))
    return [*theirs, LANGUAGE_MODELS]
