"""f-SFT: fine-tuning on demonstrations that keeps its distance term, under a choice of divergence."""

from __future__ import annotations

from typing import Literal

from diffalign.tensors import Loss, Outputs, implicit_reward


def fsft(outputs: Outputs, *, beta: float = 5000.0, divergence: Literal["identity", "chi_square", "hellinger"] = "chi_square") -> Loss:
    """−φ(r), φ = r, r − r²/4 or r/(1 + r): after Wang et al. 2025, arXiv:2507.00018; the forms are ours. Value (B,).

    All share sft's gradient at the reference. identity: sft, less the reference's error; chi_square: its optimum is r = 2;
    hellinger: below r = −0.9 it goes on straight with the slope there, 100.
    """
    reward = implicit_reward(outputs, beta)[:, 0]
    if divergence == "identity":
        gain = reward
    elif divergence == "chi_square":
        gain = reward - 0.25 * reward.square()
    else:
        held = reward.clamp(min=-0.9)
        gain = held / (1 + held) + 100 * (reward - held)
    return Loss(-gain)
