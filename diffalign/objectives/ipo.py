"""IPO: the margin is pulled to ½ instead of to infinity, so that certain labels keep a finite optimum."""

from diffalign.tensors import Loss, Outputs, implicit_margin


def ipo(outputs: Outputs, *, beta: float = 500.0) -> Loss:
    """(m − ½)²: Azar et al. 2023, arXiv:2310.12036, eq. 17, in units of m. β sets the drift gap that is aimed at: 1/β. Value (B,)."""
    margin = implicit_margin(outputs, beta)
    return Loss((margin - 0.5).square(), margin)
