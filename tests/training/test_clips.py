"""Methods that look along time, end to end: scores of spans → preferences → a latent cache of clips → training → where the drift fell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest
import torch
from tiny_clips import PROMPT, make_task, random_clip, save_clips
from torch import Tensor

from diffalign.data.latents import LatentCache
from diffalign.data.pairing import Group, PairingSettings, pair_groups
from diffalign.data.records import Preference
from diffalign.tensors import by_step
from diffalign.training.alignment import AlignmentTask
from diffalign.training.groups import CachedGroups
from diffalign.training.loop import Visit, train
from diffalign.training.predict import predict_own
from diffalign.training.randomness import generator
from diffalign.training.settings import Settings

GROUPS = 12
SHORT = Settings(steps=30, batch_size=GROUPS, learning_rate=1e-3, tracker=None)
SPANS = ("judge.first", "judge.second", "judge.third")
SCORES = {"judge.whole": [0.6, 0.5], "judge.first": [0.9, 0.1], "judge.second": [0.5, 0.52], "judge.third": [0.2, 0.8]}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    """Pairs of a bright clip and a dark one, six frames each."""
    names = [f"g{index}-{side}" for index in range(GROUPS) for side in ("bright", "dark")]
    return save_clips(
        tmp_path_factory.mktemp("clips"), {name: random_clip(name, 1.0 if name.endswith("bright") else -1.0) for name in names}
    )


def judged() -> list[Preference]:
    """Pairs by scores of three spans, two frames each: bright is better in the first, dark in the third, the second a tie."""
    groups = [
        Group(f"g{index}", PROMPT, [f"g{index}-bright", f"g{index}-dark"], SCORES, ["m"] * 2, [""] * 2, [(4, 4)] * 2)
        for index in range(GROUPS)
    ]
    return pair_groups(groups, PairingSettings(by="judge.whole", spans=SPANS, span_margin=0.05)).preferences


def drift_by_step(task: AlignmentTask) -> Tensor:
    """(groups, 2, F): drift of each frame of every group, the mean over four draws that training did not see."""
    return drift_of(task, [Visit(group, 10_000 + draw) for draw in range(4) for group in range(GROUPS)]).unflatten(0, (4, GROUPS)).mean(0)


@torch.no_grad()
def drift_of(task: AlignmentTask, visits: list[Visit]) -> Tensor:
    """(visits, 2, F): drift of each frame."""
    batch, noised, timestep = task.draw(visits)
    assert task.reference is not None
    errors = []
    for denoiser in (task.modules["denoiser"], task.reference.denoiser):  # type: ignore[attr-defined]
        embeds = {name: value.repeat_interleave(2, 0) for name, value in batch.embeds.items()}
        lengths = None if batch.lengths is None else batch.lengths.flatten()
        found = predict_own(task.backbone, denoiser, noised.sample.flatten(0, 1), timestep.repeat_interleave(2), embeds, lengths)
        errors.append(by_step((found.view_as(noised.target) - noised.target).square()))
    return errors[0] - errors[1]


def test_densedpo_moves_each_span_towards_the_clip_that_is_better_there(clips: LatentCache, tmp_path: Path) -> None:
    """Diffusion-DPO on the same pairs can only move whole clips, and moves the third span towards the one that is worse there."""
    rows = judged()
    assert {(row.samples[0].split("-")[1], row.segment_labels) for row in rows} == {("bright", (1, 0, -1))}
    drift = {}
    for name in ("densedpo", "diffusion_dpo"):
        task = make_task(clips, rows, name, beta=20.0)
        train(task, SHORT, tmp_path / name)
        drift[name] = drift_by_step(task).unflatten(2, (3, 2)).mean(3)
    bright, dark = drift["densedpo"].unbind(1)
    assert bool((bright[:, 0] < 0).all()) and bool((dark[:, 0] > 0).all())
    assert bool((bright[:, 2] > 0).all()) and bool((dark[:, 2] < 0).all())
    tied, *others = (bright - dark).abs().mean(0)[[1, 0, 2]]
    assert tied < min(others)  # it has no gradient of its own, but the weights of the others
    bright, dark = drift["diffusion_dpo"].unbind(1)
    assert bool((bright < dark).all())


def unequal(folder: Path) -> tuple[LatentCache, list[Preference]]:
    """Pairs of clips of six and four frames; in every second pair the shorter is preferred."""
    rows, found = [], {}
    for index in range(GROUPS):
        lengths = (4, 6) if index % 2 else (6, 4)
        rows.append(Preference(f"g{index}", PROMPT, (f"g{index}-w", f"g{index}-l")))
        for name, length, level in zip(rows[-1].samples, lengths, (1.0, -1.0), strict=True):
            found[name] = random_clip(name, level, length)
    return save_clips(folder, found), rows


def test_ldpo_on_clips_of_unequal_length_is_the_loop_over_single_clips(tmp_path: Path) -> None:
    """Each clip alone through the denoiser at its own length, the noise of its group's first frames: no padding is seen by anything."""
    beta, alpha = 30.0, 0.25
    cache, rows = unequal(tmp_path)
    task = make_task(cache, rows, "ldpo", beta=beta, alpha=alpha, nominal=5)
    policy = task.modules["denoiser"]
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator("moved")))
    visits = [Visit(group, group % 3) for group in (0, 1, 2, 5)]
    measured = task.measure(visits)
    assert task.reference is not None
    for place, visit in enumerate(visits):
        draw = generator(3, "group", visit.group, visit.draw)
        timestep = task.backbone.process.timestep(torch.rand(3, generator=draw)[:1], (6, 4, 4))
        noise = torch.randn(2, 6, 4, 4, generator=draw)
        clips = [cache.latents([name])[0] for name in rows[visit.group].samples]
        shorter, rewards, means = min(clip.shape[1] for clip in clips), [], []
        for clip in clips:
            epsilon = noise[:, : clip.shape[1]]
            level = float(timestep) / 1000
            x = (1 - level) * clip + level * epsilon
            with torch.no_grad():
                error = [
                    (denoiser(x[None], timestep, torch.ones(1))[0] - (epsilon - clip)).square().mean((0, 2, 3))
                    for denoiser in (policy, task.reference.denoiser)  # type: ignore[attr-defined]
                ]
            drift = error[0] - error[1]
            rewards.append(-beta / 2 / 5 * sum((1.0 if f < shorter else alpha) * float(drift[f]) for f in range(len(drift))))
            means.append(float(error[0].mean()))
        margin = rewards[0] - rewards[1]
        assert abs(margin) > 1e-3
        assert measured.value[place].item() == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-4)
        shown = (measured.numbers["error/policy_w"][place], measured.numbers["error/policy_l"][place])
        assert [float(each) for each in shown] == pytest.approx(means, rel=1e-4)


def test_ldpo_trains_on_clips_of_unequal_length(tmp_path: Path) -> None:
    cache, rows = unequal(tmp_path / "cache")
    task = make_task(cache, rows, "ldpo", beta=20.0)
    train(task, SHORT, tmp_path / "run")
    drift = drift_by_step(task)
    assert bool((drift[:, 0, :4] < drift[:, 1, :4]).all())  # frames that both have
    shorter = 1 - torch.arange(GROUPS) % 2
    assert not bool(drift[torch.arange(GROUPS), shorter, 4:].any())  # padding


def test_a_draw_of_unequal_clips_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    cache, rows = unequal(tmp_path)
    task = make_task(cache, rows, "ldpo")
    batch, noised, _ = task.draw([Visit(0, 0), Visit(1, 0)])
    alone = task.draw([Visit(1, 0)])[1]
    assert batch.lengths is not None and batch.lengths.tolist() == [[6, 4], [4, 6]]
    assert torch.equal(noised.sample[1:], alone.sample)


@pytest.mark.parametrize("lengths", [[(2, 2), (6, 6)], [(2, 2), (6, 6), (2, 6), (2, 4)]])
def test_ldpo_counts_by_the_longest_of_the_set_in_every_group(lengths: list[tuple[int, int]], tmp_path: Path) -> None:
    """Also where no group is mixed; a group is padded no further than to its own longest, and its loss is the same in every set."""
    rows = [Preference(f"g{place}", PROMPT, (f"g{place}-w", f"g{place}-l")) for place in range(len(lengths))]
    clips = {name: random_clip(name, 0.0, length) for row, pair in zip(rows, lengths) for name, length in zip(row.samples, pair)}
    task = make_task(save_clips(tmp_path, clips), rows, "ldpo", beta=40.0)
    with torch.no_grad():
        for parameter in task.modules["denoiser"].parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator("moved")))
    visits = [Visit(group, 0) for group in range(len(rows))]
    measured = task.measure(visits)
    for place, (visit, pair) in enumerate(zip(visits, lengths)):
        batch = task.draw([visit])[0]
        assert batch.latents.shape[3] == max(pair) and batch.lengths is not None and batch.lengths.tolist() == [list(pair)]
        drift = drift_of(task, [visit])[0]
        rewards = [sum((1.0 if n < min(pair) else 0.5) * drift[k, n].item() for n in range(pair[k])) for k in (0, 1)]
        margin = -40 / 2 / 6 * (rewards[0] - rewards[1])
        assert measured.value[place].item() == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-4)


def test_unequal_lengths_are_for_objectives_that_read_them(tmp_path: Path) -> None:
    cache, rows = unequal(tmp_path)
    with pytest.raises(ValueError, match=r"different shapes in 12 of 12 groups, the first: g0 .*pair\.same_size: true.*encode\.size"):
        make_task(cache, rows, "diffusion_dpo")


CAUSAL = [0, 0, 0.25, 0.5, 0.75, 1]  # of 17 frames: the first alone, which takes no time, then four in each latent


def segmented(
    folder: Path, spans: Sequence[tuple[int, ...]], length: int, covered: float = 1.0, whole: Sequence[str] = ()
) -> tuple[LatentCache, list[Preference]]:
    """A pair of clips for each row of labels; of how much of their time, but for the whole ones."""
    rows = [Preference(f"g{place}", PROMPT, (f"g{place}-w", f"g{place}-l"), segment_labels=each) for place, each in enumerate(spans)]
    names = [name for row in rows for name in row.samples]
    shares = [1.0 if name in whole else covered for name in names]
    return save_clips(folder, {name: random_clip(name, 0.0, length) for name in names}, shares), rows


@pytest.mark.parametrize(
    ("edges", "labels", "expected"),
    [  # of each span, in hundredths, what of each latent lies in it
        (CAUSAL, (1, 0, -1, 1), [[100, 100, 0, 0, 0], [0, 0, 100, 0, 0], [0, 0, 0, 100, 0], [0, 0, 0, 0, 100]]),
        (CAUSAL, (1, 0, -1), [[100, 100, 100 / 3, 0, 0], [0, 0, 200 / 3, 200 / 3, 0], [0, 0, 0, 100 / 3, 100]]),
        ([0, 0.25, 0.5, 0.75, 1], (1, 0, -1, 1), [[100, 0, 0, 0], [0, 100, 0, 0], [0, 0, 100, 0], [0, 0, 0, 100]]),
        ([place / 6 for place in range(7)], (1, 0, -1), [[100, 100, 0, 0, 0, 0], [0, 0, 100, 100, 0, 0], [0, 0, 0, 0, 100, 100]]),
        ([place / 5 for place in range(6)], (1, -1), [[100, 100, 50, 0, 0], [0, 0, 50, 100, 100]]),
    ],
)
def test_latent_positions_go_to_the_spans_of_the_medium_by_how_much_of_them_lies_there(
    edges: list[float], labels: tuple[int, ...], expected: list[list[float]], tmp_path: Path
) -> None:
    cache, rows = segmented(tmp_path, [labels], len(edges) - 1)
    groups = CachedGroups(cache, rows, "segments", time_edges=lambda length: edges)
    batch = groups.fetch([0], dropped=[False], flipped=[False])
    assert batch.segment_labels is not None and batch.segment_shares is not None
    assert batch.segment_labels.tolist() == [list(labels)]
    shares = torch.tensor(expected, dtype=torch.float32) / 100
    assert torch.allclose(batch.segment_shares[0], shares) and torch.equal(batch.segment_shares[0] > 0, shares > 0)


def test_labels_stay_where_they_were_when_a_medium_is_cut(tmp_path: Path) -> None:
    """Five latents of the first two thirds of the time: of two spans the first has all but the last; of four the last has none."""
    cache, rows = segmented(tmp_path, [(1, -1), (1, 0, -1, 1)], 5, covered=2 / 3)
    groups = CachedGroups(cache, rows, "segments", time_edges=lambda length: CAUSAL)
    batch = groups.fetch([0, 1], dropped=[False] * 2, flipped=[False] * 2)
    assert batch.segment_labels is not None and batch.segment_shares is not None
    assert batch.segment_labels.tolist() == [[1, -1, 0, 0], [1, 0, -1, 0]]
    two, four = [[1, 1, 1, 1, 0], [0, 0, 0, 0, 1]], [[1, 1, 1 / 2, 0, 0], [0, 0, 1 / 2, 1, 0], [0, 0, 0, 0, 1], [0] * 5]
    assert torch.allclose(batch.segment_shares[0, :2], torch.tensor(two, dtype=torch.float32), atol=1e-6)
    assert torch.allclose(batch.segment_shares[1], torch.tensor(four, dtype=torch.float32), atol=1e-6)


def test_labels_of_samples_that_were_cut_at_different_shares_are_refused(tmp_path: Path) -> None:
    cache, rows = segmented(tmp_path, [(1, -1)], 5, covered=0.75, whole=("g0-l",))
    with pytest.raises(ValueError, match=r"1 of 1 pairs were cut at different ones .*: group 'g0' at 0\.75, 1; pair samples of one length"):
        CachedGroups(cache, rows, "segments", time_edges=lambda length: CAUSAL)
    assert len(CachedGroups(cache, rows, "pairs"))


@pytest.mark.parametrize("aggregate", ["inside", "sum", "outside"])
def test_densedpo_links_the_margins_of_spans_of_several_latents(aggregate: str, tmp_path: Path) -> None:
    """Five labels on 21 latents of 81 frames as the paper has them, beside clips with two labels and with one: the loop over frames."""
    causal = [0.0, *(place / 20 for place in range(21))]
    cache, rows = segmented(tmp_path, [(1, 0, -1, 1, 1), (1, -1), (-1,)], 21)
    task = make_task(cache, rows, "densedpo", time_edges=lambda length: causal, longest=21, beta=40.0, aggregate=aggregate)
    with torch.no_grad():
        for parameter in task.modules["denoiser"].parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator("moved")))
    for visits in ([Visit(0, 0), Visit(1, 0), Visit(2, 0)], [Visit(2, 0), Visit(1, 0)]):
        drift = drift_of(task, visits)
        measured = task.measure(visits)
        for place, visit in enumerate(visits):
            labels, margins = rows[visit.group].segment_labels or (), []
            for span, label in enumerate(labels):
                moments = range(span * 8000 // len(labels), (span + 1) * 8000 // len(labels))  # hundredths of frames after the first
                latents = [
                    *([0] * 400 if span == 0 else []),
                    *(1 + moment // 400 for moment in moments),
                ]  # each counts once, the first frame's too
                of_span = fmean((drift[place, 0, n] - drift[place, 1, n]).item() for n in latents)
                margins += [-20.0 * label * of_span] if label else []
            inside = sum(margins) if aggregate == "sum" else sum(margins) / len(margins)
            links = [math.log1p(math.exp(-margin)) for margin in (margins if aggregate == "outside" else [inside])]
            assert measured.value[place].item() == pytest.approx(sum(links) / len(links), rel=1e-4)


def test_spans_of_one_clip_leave_the_loss_of_another(tmp_path: Path) -> None:
    """In a batch with more spans than its own, and alone: to the bit."""
    cache, rows = segmented(tmp_path, [(1, 0, -1, 1), (1, -1)], 6)
    task = make_task(cache, rows, "densedpo", beta=40.0)
    both, alone = (task.draw(visits)[0] for visits in ([Visit(0, 0), Visit(1, 0)], [Visit(1, 0)]))
    for name in ("segment_labels", "segment_shares"):
        assert torch.equal(getattr(both, name)[1:], getattr(alone, name))
    assert torch.equal(task.measure([Visit(0, 0), Visit(1, 0)]).value[1:], task.measure([Visit(1, 0)]).value)


def test_more_labels_than_latent_positions_are_refused(tmp_path: Path) -> None:
    cache = save_clips(tmp_path, {name: random_clip(name, 0.0, 3) for name in "wl"})
    groups = CachedGroups(cache, [Preference("g", PROMPT, ("w", "l"), segment_labels=(1, 0, -1, 1))], "segments")
    with pytest.raises(ValueError, match="group 'g': 4 segment labels for 3 latent positions in time; label longer spans"):
        groups.fetch([0], dropped=[False], flipped=[False])
