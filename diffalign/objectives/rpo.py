"""RPO: Diffusion-DPO with supervised fine-tuning on the winner as its regulariser."""

from torch.nn.functional import softplus

from diffalign.arguments import NotNegative
from diffalign.tensors import Loss, Outputs, implicit_margin


def rpo(outputs: Outputs, *, beta: float = 5000.0, sft: NotNegative = 0.4, relative: bool = True) -> Loss:
    """−log σ(m) + sft·(β/2)·e_w: Liu et al. 2024, arXiv:2405.16436, on the denoising surrogate. Value (B,).

    ∂L/∂e_w = (β/2)·(σ(−m) + sft) stays positive as m grows, so the margin is not won by letting both errors rise. sft = 0: Diffusion-DPO.
    relative  False: the term is sft·e_w whatever β is, as CRPO has it (Hung et al. 2024, arXiv:2412.21037, sft = 1)
    """
    margin = implicit_margin(outputs, beta)
    weight = sft * 0.5 * beta if relative else sft
    return Loss(softplus(-margin) + weight * outputs.error[:, 0], margin)
