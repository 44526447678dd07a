"""The share of flipped labels that methods for noisy labels are told."""


def check_flip_rate(flip_rate: float) -> None:
    """Raises ValueError unless 0 ≤ flip_rate < ½."""
    if not 0 <= flip_rate < 0.5:
        raise ValueError(f"flip_rate is {flip_rate}; it is the share of flipped labels, at least 0 and below ½")
