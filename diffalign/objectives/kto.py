"""KTO: Diffusion-KTO whose reference point is the reward of samples under other groups' prompts."""

from __future__ import annotations

import torch

from diffalign.arguments import NotNegative, PartialShare
from diffalign.objectives.prospect import prospect
from diffalign.tensors import Loss, Outputs, implicit_reward, mean_squared_error


def kto(
    outputs: Outputs, *, beta: float = 2000.0, desirable: NotNegative = 1.0, undesirable: NotNegative = 1.0, decay: PartialShare = 0.9
) -> Loss:
    """w_y·(1 − σ(±(r − z))), z = max(0, mean reward under mismatched prompts): Ethayarajh et al. 2024, arXiv:2402.01306. Value (B,).

    The mismatched prompts estimate the divergence from the reference, at the price of one more forward of both networks.
    """
    reward = implicit_reward(outputs, beta)
    before = outputs.running.get("mismatched_reward", reward.new_zeros(()))
    value = prospect(outputs, reward, before.clamp(min=0), "kahneman_tversky", desirable, undesirable)
    policy, reference = outputs.required("mismatched", "predictions under mismatched prompts").unbind(2)
    with torch.no_grad():
        drift = mean_squared_error(policy, outputs.target) - mean_squared_error(reference, outputs.target)
        tracked = decay * before + (1 - decay) * (-0.5 * beta * drift).mean(1)
    return Loss(value, reward=reward, tracked={"mismatched_reward": tracked})
