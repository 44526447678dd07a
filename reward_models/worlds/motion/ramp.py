"""From a measurement to a share: linear between where it is full and where it is nothing."""

import numpy as np


def ramp(value: float, full_and_nothing: tuple[float, float]) -> float:
    """1 at the first of two values and beyond it, 0 at the second and beyond, linear between."""
    full, nothing = full_and_nothing
    return min(1.0, max(0.0, (value - nothing) / (full - nothing)))


def ramps(values: np.ndarray, full_and_nothing: tuple[float, float]) -> np.ndarray:
    """`ramp` of every value of an array."""
    full, nothing = full_and_nothing
    return np.clip((values - nothing) / (full - nothing), 0.0, 1.0)
