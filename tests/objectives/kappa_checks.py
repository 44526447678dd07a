"""What is asked of both objectives whose κ is one over a running mean of errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from objective_checks import close, next_running, outputs_of_errors


def check_relative_kappa(objective: Any) -> None:
    """From the first batch on, however unevenly the timesteps fall: never 1 from nowhere, never below the errors that were seen."""
    outputs = outputs_of_errors(
        torch.tensor([[1.0, 3.0], [20.0, 2.0], [6.0, 8.0]], dtype=torch.float64),
        fraction=torch.tensor([0.3, 0.8, 0.3], dtype=torch.float64),
    )
    first = next_running(outputs, [{key: each[row] for key, each in objective(outputs, decay=0.5).tracked.items()} for row in range(3)])
    ratio = first.running["error"] / first.running["seen"]
    close(ratio[1], 4.5)
    close(ratio[3], 11.0)
    assert first.running["seen"][0] == first.running["seen"][2] == 0
    small = replace(first, target=outputs.target, fraction=torch.full((3,), 0.3, dtype=torch.float64), policy=outputs.policy / 10)
    second = next_running(first, [{key: each[row] for key, each in objective(small, decay=0.5).tracked.items()} for row in range(3)])
    shares = torch.tensor([1 / 6, 1 / 2], dtype=torch.float64)  # of bucket 1: ½ of 2 of 3, faded by ½, and ½ of all
    least = small.error.mean()
    close(second.running["error"][1] / second.running["seen"][1], (shares[0] * 4.5 + shares[1] * least) / shares.sum())
    close(second.running["error"][3] / second.running["seen"][3], 11.0)
