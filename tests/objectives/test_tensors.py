"""Errors and drift: the numbers that every objective starts from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from objective_checks import close

from diffalign.tensors import Outputs, by_step, even_edges, mean_squared_error, span_shares


def test_error_by_hand() -> None:
    """(1² + 2² + 3² + 4²) / 4 = 7.5 and (0 + 0 + 0 + 2²) / 4 = 1, whatever the shape of the four numbers."""
    prediction = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, -2.0]]], dtype=torch.float64)
    for shape in ((4,), (1, 4), (2, 2), (1, 2, 2), (2, 1, 2, 1)):
        shaped = prediction.view(1, 2, *shape)
        close(mean_squared_error(shaped, torch.zeros_like(shaped)), [[7.5, 1.0]])


def test_padding_has_no_part_in_an_error() -> None:
    """Of (1, 2, 9, 9) the two first count, (1 + 4)/2, and of (0, 0, 3, 9) three, 9/3, in any dims."""
    prediction = torch.tensor([[[1.0, 2.0, 9.0, 9.0], [0.0, 0.0, 3.0, 9.0]]], dtype=torch.float64)
    lengths = torch.tensor([[2, 3]])
    for shape in ((1, 4), (1, 4, 1), (2, 4), (2, 4, 3, 5)):
        shaped = prediction.view(1, 2, 1, 4, *[1] * (len(shape) - 2)).expand(1, 2, *shape)
        zeros = torch.zeros_like(shaped)
        close(mean_squared_error(shaped, zeros, lengths), [[2.5, 3.0]])
        outputs = Outputs(shaped, zeros, torch.zeros(1), reference=shaped + 1, lengths=lengths)
        close(outputs.error, [[2.5, 3.0]])
        close(outputs.reference_error, [[(4 + 9) / 2, (1 + 1 + 16) / 3]])
        drift = shaped**2 - (shaped + 1) ** 2
        close(outputs.position_drift, drift)
        corrected = replace(outputs, correction=torch.full_like(drift, 0.25))
        close(corrected.position_drift, drift - 0.25)
        close(corrected.drift, outputs.drift - 0.25)
        close(by_step(shaped), prediction)


@pytest.mark.parametrize("count", range(1, 8))
def test_spans_share_out_every_position(count) -> None:
    """All of it, whatever its length; positions that end where a span does have no rounding of a share beyond."""
    for edges in (
        even_edges(7),
        [0, *even_edges(7)],
        [0, 1 / 25, *((1 + 4 * place) / 25 for place in range(1, 7))],
        even_edges(21),
        even_edges(6 * count),
    ):
        shares = span_shares(edges, count)
        close(shares.sum(0), torch.ones(len(edges) - 1))
        assert bool((shares >= 0).all()) and bool((shares.sum(1) > 0).all())
    first = span_shares([0, *even_edges(7)], count)[:, 0]
    assert first.tolist() == [1.0, *[0.0] * (count - 1)]  # a moment lies in the span that it begins
    assert set(shares.flatten().round(decimals=12).tolist()) <= {0.0, 1.0} and int((shares > 0).sum()) == 6 * count


@pytest.mark.parametrize("shape", [(1, 640), (8, 16, 5), (4, 3, 6, 5), (4, 8, 8)], ids=["waveform", "mel", "video", "image"])
def test_one_number_per_sample(shape) -> None:
    prediction, target = torch.randn(2, 3, 2, *shape, generator=torch.Generator().manual_seed(0))
    assert mean_squared_error(prediction, target).shape == (3, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_before_the_subtraction(dtype) -> None:
    """300 − 1/1024 would be rounded to 300 in half precision, and the square of 300 overflows fp16."""
    prediction, target = torch.tensor([[[300.0]]]).to(dtype), torch.tensor([[[1 / 1024]]]).to(dtype)
    error = mean_squared_error(prediction, target)
    assert error.dtype == torch.float32
    close(error, [[(float(prediction) - 1 / 1024) ** 2]], rtol=1e-6)


def test_the_prediction_decides_the_dtype_but_never_below_float32() -> None:
    single, double = torch.zeros(1, 1, 3), torch.zeros(1, 1, 3, dtype=torch.float64)
    assert mean_squared_error(single.bfloat16(), single).dtype == torch.float32
    assert mean_squared_error(single, double).dtype == torch.float32
    assert mean_squared_error(double, single).dtype == torch.float64


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"prediction has shape \(1, 2, 3\), target \(1, 2, 1\); they must be equal"):
        mean_squared_error(torch.zeros(1, 2, 3), torch.zeros(1, 2, 1))  # would broadcast


def test_drift_by_hand_and_its_gradient() -> None:
    """e = 4, e_ref = 9, drift −5; ∂e/∂p = 2·p; nothing flows into the reference."""
    policy = torch.full((1, 1, 1), 2.0, requires_grad=True)
    reference = torch.full((1, 1, 1), 3.0)
    outputs = Outputs(policy, torch.zeros(1, 1, 1), torch.zeros(1), reference=reference)
    outputs.drift.sum().backward()
    assert (outputs.error.item(), outputs.reference_error.item(), outputs.drift.item()) == (4.0, 9.0, -5.0)
    assert policy.grad is not None and policy.grad.item() == 4.0


def test_a_kept_reference_error_wins_over_the_prediction() -> None:
    outputs = Outputs(torch.ones(1, 1, 1), torch.zeros(1, 1, 1), torch.zeros(1), known_reference_error=torch.full((1, 1), 0.25))
    assert outputs.drift.item() == 0.75


def test_no_reference_is_an_error() -> None:
    with pytest.raises(ValueError, match="says reference=None; write reference='error'"):
        _ = Outputs(torch.ones(1, 1, 1), torch.zeros(1, 1, 1), torch.zeros(1)).drift
