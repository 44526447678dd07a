"""CaPO: differences of implicit reward are regressed on differences of calibrated reward."""

from __future__ import annotations

import torch

from diffalign.tensors import Loss, Outputs, implicit_reward


def capo(outputs: Outputs, *, beta: float = 500.0, bias: float | None = None) -> Loss:
    """(w_t·(r_i − r_j) − (c_i − c_j))², the mean over pairs of a list: Lee et al. 2025, arXiv:2502.02588. Value (B,).

    c_i = mean over the other samples j, and over all scores, of σ(R_i − R_j), the calibrated reward.
    bias  of w_t = σ(bias − ln SNR_t); None: w_t = 1
    """
    scores = outputs.required("scores", "a score of each sample")
    reward = implicit_reward(outputs, beta)
    count = reward.shape[1]
    duels = torch.sigmoid((scores[:, :, None] - scores[:, None, :]).to(reward.dtype)).mean(3)
    calibrated = duels.sum(2) / (count - 1)  # σ(0) = ½ of a sample against itself cancels in the differences
    if bias is not None:
        snr = outputs.required("snr", "the signal-to-noise ratio").to(reward.dtype)
        reward = reward * torch.sigmoid(bias - snr.log())[:, None]
    first, second = torch.triu_indices(count, count, 1, device=reward.device)
    gap = reward - calibrated
    return Loss((gap[:, first] - gap[:, second]).square().mean(1), reward=reward, ranking=calibrated)
