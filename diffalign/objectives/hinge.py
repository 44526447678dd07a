"""Hinge (SLiC): no gradient from a pair whose margin has passed 1."""

from torch.nn.functional import relu

from diffalign.tensors import Loss, Outputs, implicit_margin


def hinge(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    """max(0, 1 − m): Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425, on the implicit margin. Value (B,)."""
    margin = implicit_margin(outputs, beta)
    return Loss(relu(1 - margin), margin)
