"""Supervised fine-tuning: the denoising error of the preferred sample, the baseline that every claim needs beside it."""

from diffalign.tensors import Loss, Outputs


def sft(outputs: Outputs) -> Loss:
    """e_w, the denoising error of index 0 (Ho et al. 2020, arXiv:2006.11239, eq. 14). Value (B,)."""
    return Loss(outputs.error[:, 0])
