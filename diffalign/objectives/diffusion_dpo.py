"""Diffusion-DPO: Bradley–Terry on denoising errors, against a frozen reference."""

from torch.nn.functional import softplus

from diffalign.tensors import Loss, Outputs, implicit_margin


def diffusion_dpo(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    """−log σ(m), m = −(β/2)(Δ_w − Δ_l): Wallace et al. 2023, arXiv:2311.12908, eq. 14, with βTω(λ) as one constant. Value (B,)."""
    margin = implicit_margin(outputs, beta)
    return Loss(softplus(-margin), margin)
