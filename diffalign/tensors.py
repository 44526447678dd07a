"""The tensors that objectives, noising, backbones and training share.

Any modality is (B, K, C, *S): B groups of one prompt each, K samples per group, index 0 preferred; S is (H, W), (F, H, W), (T,) or (M, T).
Nothing here names a spatial dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

BUCKETS = 4
Rows = Literal["pairs", "lists", "labelled", "segments", "positives"]


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """(prediction − target)², elementwise, in float32.

    Float32 before the subtraction: two bf16 errors differ by less than their rounding, and β/2 ≈ 1000 multiplies the difference.
    Float64 stays float64, so that tests can check values by hand.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}; they must be equal")
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square()


def by_step(values: Tensor) -> Tensor:
    """Means over all but the first axis after the channels, along which time runs: (B, K, C, F, …) → (B, K, F)."""
    return values.mean((2, *range(4, values.ndim)))


def within(lengths: Tensor, count: int) -> Tensor:
    """Whether a step is one of a sample's own: (B, K) lengths → (B, K, count)."""
    return torch.arange(count, device=lengths.device) < lengths[..., None]


def even_edges(length: int) -> list[float]:
    """Where each of so many equal parts of a whole begins, and the last one ends: length + 1 numbers from 0 to 1."""
    return [place / length for place in range(length + 1)]


def span_shares(edges: Sequence[float], count: int) -> Tensor:
    """How much of each of N positions lies in each of `count` equal spans of the whole, (count, N): what a position is adds up to 1.

    edges  (N + 1) where the positions begin, and the last one ends, as shares of the whole; one that takes no time lies whole in the span
           that begins there or has begun. ValueError for more spans than positions
    """
    if len(edges) <= count:
        raise ValueError(f"{count} segment labels for {len(edges) - 1} latent positions in time; label longer spans")
    ends, spans = torch.tensor(edges, dtype=torch.float64), torch.tensor(even_edges(count), dtype=torch.float64)[:, None]
    common = torch.minimum(ends[1:], spans[1:]) - torch.maximum(ends[:-1], spans[:-1])
    is_moment = ends.diff() == 0
    shares = torch.where(is_moment, (spans[:-1] <= ends[:-1]) & (ends[:-1] < spans[1:]), common / ends.diff())
    return shares.where(shares > 1e-9, 0)  # where edges meet, their rounding is no share


def mean_squared_error(prediction: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Error of each sample, (B, K): the mean of the squared error over every axis after the second, of a sample's own steps alone."""
    return of_samples(squared_error(prediction, target), lengths)


def of_samples(values: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Means of positions over each sample, (B, K, C, *S) → (B, K), over a sample's own steps alone."""
    if lengths is None:
        return values.flatten(2).mean(2)
    return by_step(values).where(within(lengths, values.shape[3]), 0).sum(2) / lengths


@dataclass(frozen=True)
class Outputs:
    """What one forward of policy and reference gives an objective.

    policy      (B, K, C, *S) prediction of the trained denoiser, with gradient
    target      (B, K, C, *S) what it should predict (ε, v or velocity: the backbone's affair)
    timestep    (B,) in the units of the backbone's scheduler
    reference   (B, K, C, *S) prediction of the frozen reference, or None
    known_reference_error  (B, K) the reference's error where it was computed before and kept, or None
    teacher     (B, K, C, *S) prediction of a checkpoint further along than the reference, or None
    known_teacher_drift  (B, K, 1, *S) the teacher's error − the reference's at each position, where several draws gave it, or None
    mismatched  (B, K, 2, C, *S) predictions of policy and reference under another group's prompt, without gradient, or None
    mask        (B, K, 1, *S) weights of positions, ≥ 0, with gradient where they are learned, or None
    fraction    (B,) the timestep as a share of the scheduler's range, in [0, 1), or None
    snr         (B,) α²/σ² at the timestep, or None
    scores      (B, K, R) external scores of the samples, the first of them the one that ranks, or None
    ranking     (B, K) what the objective ranks a list by, larger better, where that is not the first score (Loss.ranking); or None
    labels      (B, K) in {0, 1}, for unpaired rows, or None
    win_probability  (B,) P(index 0 preferred over index 1) where votes gave one, or None
    segment_labels   (B, F) per time span: 1 index 0 is better, −1 index 1, 0 neither; or None
    segment_shares   (B, F, N) how much of each of the N steps of the first axis of S lies in each span; None: the spans are of equal length
    lengths     (B, K) how many steps of the first axis of S are a sample's own, the rest is padding; or None where all are full
    longest     (B,) the most steps that a sample of the whole set has along that axis, or None where all have as many
    last_layer_gradient  (B, K, P) of each sample's error, for the P weights of the policy's last layer, or None
    correction  (B, K, C, *S) what a stabiliser takes off the drift at each position, or None; errors stay as they are
    running     means over the batches so far of what objectives track, scalars or vectors by name
    """

    policy: Tensor
    target: Tensor
    timestep: Tensor
    reference: Tensor | None = None
    known_reference_error: Tensor | None = None
    teacher: Tensor | None = None
    known_teacher_drift: Tensor | None = None
    mismatched: Tensor | None = None
    mask: Tensor | None = None
    fraction: Tensor | None = None
    snr: Tensor | None = None
    scores: Tensor | None = None
    ranking: Tensor | None = None
    labels: Tensor | None = None
    win_probability: Tensor | None = None
    segment_labels: Tensor | None = None
    segment_shares: Tensor | None = None
    lengths: Tensor | None = None
    longest: Tensor | None = None
    last_layer_gradient: Tensor | None = None
    correction: Tensor | None = None
    running: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def ranked_by(self) -> Tensor | None:
        """(B, K) what a list is ranked by, larger better: `ranking`, or else the first score; None where there is neither."""
        return self.ranking if self.ranking is not None or self.scores is None else self.scores[..., 0]

    @cached_property
    def error(self) -> Tensor:
        """Error of the policy, (B, K), with gradient."""
        return mean_squared_error(self.policy, self.target, self.lengths)

    @cached_property
    def reference_error(self) -> Tensor:
        """Error of the reference, (B, K). Raises ValueError where the objective's table line asked for no reference."""
        if self.known_reference_error is not None:
            return self.known_reference_error
        if self.reference is None:
            raise ValueError("the objective reads the reference's error; its OBJECTIVES line says reference=None; write reference='error'")
        return mean_squared_error(self.reference, self.target, self.lengths)

    @cached_property
    def drift(self) -> Tensor:
        """Δ = error of the policy − error of the reference − correction, (B, K). Negative: the policy explains the sample better."""
        drift = self.error - self.reference_error
        return drift if self.correction is None else drift - of_samples(self.correction, self.lengths)

    @property
    def position_drift(self) -> Tensor:
        """What `drift` is the mean of, (B, K, C, *S), with gradient. Raises ValueError without the reference's prediction."""
        reference = squared_error(self.required("reference", "the reference's prediction"), self.target)
        drift = squared_error(self.policy, self.target) - reference
        return drift if self.correction is None else drift - self.correction

    @property
    def teacher_drift(self) -> Tensor:
        """Error of the teacher − error of the reference at each position, mean over channels, (B, K, 1, *S). ValueError without one."""
        if self.known_teacher_drift is not None:
            return self.known_teacher_drift
        teacher = squared_error(self.required("teacher", "a teacher's prediction").detach(), self.target)
        reference = squared_error(self.required("reference", "the reference's prediction"), self.target)
        return (teacher - reference).mean(2, keepdim=True)

    @property
    def bucket(self) -> Tensor:
        """Which quarter of the scheduler's range the timestep lies in, (B,) of 0 … 3; all in the first where the fraction is not known."""
        if self.fraction is None:
            return torch.zeros(len(self.policy), dtype=torch.long, device=self.policy.device)
        return (BUCKETS * self.fraction).long().clamp(0, BUCKETS - 1)

    def required(self, name: str, what: str) -> Tensor:
        """A part that not every run has. ValueError says what is missing."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(
                f"the objective reads {what} (Outputs.{name}), and this run gives none; see its OBJECTIVES line for what it needs"
            )
        return value


@dataclass(frozen=True)
class Loss:
    """An objective's result, unreduced: the loop alone reduces.

    value    (B,)
    margin   (B,) what the link saw for index 0 over index 1, where the method compares two samples
    compared (B,) or (B, F) differences of reward, above 0 where the policy agrees with the label and NaN where nothing was judged; None:
             the margin, which in some methods has an offset, another order or more than one judgement in it
    reward   (B, K) implicit reward of each sample, where the method ranks more than two or judges them singly
    ranking  (B, K) what the method ranks a list by, larger better, where that is not the first score: of several judges
    tracked  (B,) or (B, N) by name: its mean over the whole batch is `Outputs.running` of the next step, on any number of processes
    """

    value: Tensor
    margin: Tensor | None = None
    compared: Tensor | None = None
    reward: Tensor | None = None
    ranking: Tensor | None = None
    tracked: Mapping[str, Tensor] = field(default_factory=dict)


def pair(values: Tensor) -> tuple[Tensor, Tensor]:
    """(preferred, dispreferred) of (B, 2). Raises ValueError for groups of any other size."""
    if values.shape[1] != 2:
        raise ValueError(f"a pairwise objective got groups of K = {values.shape[1]} samples; it needs K = 2, index 0 preferred")
    return values[:, 0], values[:, 1]


def implicit_reward(outputs: Outputs, beta: float) -> Tensor:
    """r = −(β/2)·Δ, (B, K): β·log(π/π_ref) of each sample, up to a constant of its prompt."""
    return -0.5 * beta * outputs.drift


def implicit_margin(outputs: Outputs, beta: float) -> Tensor:
    """m = r_w − r_l = −(β/2)·(Δ_w − Δ_l), (B,): Wallace et al. 2023, arXiv:2311.12908, with mean-reduced float32 errors."""
    winner, loser = pair(outputs.drift)
    return -0.5 * beta * (winner - loser)
