"""CPO, and Triple-PO: a margin between errors without a reference, held by fine-tuning on the winner or on a gold sample."""

from __future__ import annotations

from torch.nn.functional import softplus

from diffalign.arguments import NotNegative
from diffalign.tensors import Loss, Outputs


def cpo(outputs: Outputs, *, beta: float = 500.0, sft: NotNegative = 0.5, relative: bool = True) -> Loss:
    """−log σ((β/2)(e_l − e_w)) + sft·(β/2)·e_gold: Xu et al. 2024, arXiv:2401.08417. Value (B,).

    Groups of two: the winner is the gold sample. Groups of three, gold ≻ winner ≻ loser: Saeidi et al. 2024, arXiv:2405.16681.
    sft  in units of the margin's slope, so that β does not change what it holds: the papers' weight a of a likelihood beside a margin of
         slope β_LM is sft = a/β_LM, 10 of CPO and 5 of Triple-PO, for language. 0.5 is this project's, near rpo's, and was not tuned
    relative  False: the term is sft·e_gold whatever β is, so that β → 0 leaves fine-tuning on the gold
    """
    error = outputs.error
    if error.shape[1] not in (2, 3):
        raise ValueError(f"cpo got groups of K = {error.shape[1]} samples; it needs 2 (winner, loser) or 3 (gold, winner, loser)")
    margin = 0.5 * beta * (error[:, -1] - error[:, -2])
    weight = sft * 0.5 * beta if relative else sft
    return Loss(softplus(-margin) + weight * error[:, 0], margin)
