"""BCO: −log σ(r_w − z) − log σ(−(r_l − z)), z the running mean of the rewards."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs

from diffalign.objectives.bco import bco

RUNNING = {"reward": 0.25}
EXEMPT = {"reference constant": "it judges each reward against z, not their difference"}


def naive(group: Group, *, beta: float, decay: float) -> float:
    shift = float(group.running.get("reward", 0.0))
    return math.log1p(math.exp(-(group.reward(0, beta) - shift))) + math.log1p(math.exp(group.reward(1, beta) - shift))


def naive_tracked(group: Group, *, beta: float, decay: float) -> dict[str, float]:
    before = float(group.running.get("reward", 0.0))
    return {"reward": decay * before + (1 - decay) * (group.reward(0, beta) + group.reward(1, beta)) / 2}


# r = (1, −½). Nothing tracked yet, z = 0: sp(−1) + sp(−½); z = ¼: 2·sp(−¾); exchanged: 2·sp(¾) = 2·(sp(−¾) + ¾); at the default β = 5000
# r = (½, −¼): sp(−½) + sp(−¼).
HAND = (
    Hand((0.3, 0.6), 0.78733867169832951, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.3, 0.6), 0.77374201222979989, (0.5, 0.5), {"beta": 10.0}, {"running": {"reward": 0.25}}),
    Hand((0.4998, 0.5001), 1.05001640405895024, (0.5, 0.5)),
    Hand((0.6, 0.3), 2.27374201222979989, (0.5, 0.5), {"beta": 10.0}, {"running": {"reward": 0.25}}),
)


def test_only_the_distance_to_the_shift_counts() -> None:
    """Both rewards and z higher by the same: the same value. c on the reference errors is β/2·c on the rewards."""
    outputs = random_outputs("bco")
    moved = replace(outputs, known_reference_error=outputs.reference_error + 0.8, running={"reward": outputs.running["reward"] + 1.2})
    close(bco(moved, beta=BETA).value, bco(outputs, beta=BETA).value)


def test_the_two_sides_are_judged_apart() -> None:
    """∂L/∂r_w = −σ(z − r_w), ∂L/∂r_l = σ(r_l − z), and nothing through z: a winner far above z gives none, whatever the loser does."""
    error = torch.tensor([[2.0, 50.0], [50.0, 49.0], [2.0, 2.0]], dtype=torch.float64, requires_grad=True)  # β = 2: r = 50 − e
    reference = torch.full((3, 2), 50.0, dtype=torch.float64)
    running = {"reward": torch.tensor(1.0, dtype=torch.float64)}
    bco(outputs_of_errors(error, reference, running=running), beta=2.0).value.sum().backward()
    low, half = 1 / (1 + math.e), 0.5
    close(error.grad, [[0.0, -low], [1 - low, -half], [0.0, -1.0]], atol=1e-12)


def test_tracks_the_mean_reward() -> None:
    outputs = random_outputs("bco")
    mean = (-BETA / 2 * outputs.drift).mean(1)
    close(bco(outputs, beta=BETA, decay=0.8).tracked["reward"], 0.8 * 0.25 + 0.2 * mean)
    close(bco(replace(outputs, running={}), beta=BETA).tracked["reward"], 0.1 * mean)
