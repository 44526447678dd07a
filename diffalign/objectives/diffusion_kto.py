"""Diffusion-KTO: single samples labelled wanted or unwanted, under a utility of their implicit reward."""

from __future__ import annotations

from diffalign.arguments import NotNegative, PartialShare
from diffalign.objectives.prospect import Utility, prospect
from diffalign.tensors import Loss, Outputs, implicit_reward


def diffusion_kto(outputs: Outputs, *, beta: float = 2000.0, utility: Utility = "kahneman_tversky", desirable: NotNegative = 1.0,
                  undesirable: NotNegative = 1.0, decay: PartialShare = 0.9) -> Loss:  # fmt: skip
    """w_y·(1 − σ(±(r − z))), z = max(0, mean of r): Li et al. 2024, arXiv:2404.04465. Value (B,), the mean over a group's samples.

    utility      1 − σ(x), or loss-averse −log σ(x), or risk-seeking log σ(−x), of x = ±(r − z)
    desirable, undesirable   w of samples labelled 1 and 0
    z is the mean over the batches so far, by `decay`, not over one device's few samples: there it is noise, and another on every device.
    """
    reward = implicit_reward(outputs, beta)
    before = outputs.running.get("reward", reward.new_zeros(()))
    value = prospect(outputs, reward, before.clamp(min=0), utility, desirable, undesirable)
    return Loss(value, reward=reward, tracked={"reward": decay * before + (1 - decay) * reward.detach().mean(1)})
