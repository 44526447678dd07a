"""R-DPO: a margin offset by features that should not decide, such as duration, saturation or loudness."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn.functional import softplus

from diffalign.tensors import Loss, Outputs, implicit_margin


def rlength(outputs: Outputs, *, beta: float = 5000.0, coefficients: Sequence[float] = (0.1,)) -> Loss:
    """−log σ(m + Σ a_k·(φ_k(w) − φ_k(l))): Park et al. 2024, arXiv:2403.19159 Value (B,).

    φ are the last scores, one for each coefficient a. Optimum ∝ π_ref·exp((R − Σ a_k·φ_k)/β). a > 0 holds a feature down, a < 0 up.
    Raises ValueError where there are fewer scores than coefficients.
    """
    scores = outputs.required("scores", "the features of each sample")
    count = len(coefficients)
    if scores.shape[2] < count:
        raise ValueError(f"rlength got {count} coefficients and {scores.shape[2]} scores; name a score for each feature (train.scores)")
    margin = implicit_margin(outputs, beta)
    gap = (scores[:, 0] - scores[:, 1]).to(margin.dtype)[:, scores.shape[2] - count :]
    shifted = margin + gap @ gap.new_tensor(list(coefficients))
    return Loss(softplus(-shifted), shifted, compared=margin)
