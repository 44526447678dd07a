"""A curriculum: its pools, the stream of visits it gives, and a run on it that stops, resumes and accumulates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from diffalign.data.latents import LatentCache
from diffalign.data.records import Preference, read_preferences
from diffalign.training.curriculum import curriculum_stages
from diffalign.training.groups import CachedGroups
from diffalign.training.loop import Measured, Visit, train
from diffalign.training.randomness import Order, Stage
from diffalign.training.settings import Curriculum, Settings

GAPS = (0.9, 0.1, 0.5, 0.7, 0.5, 0.3)
DIFFICULTY = [-gap for gap in GAPS]


def stages_of(difficulty: Sequence[float] | None = DIFFICULTY, steps: int = 12, batch_size: int = 4, **order: Any) -> list[Stage]:
    settings = Settings(steps=steps, batch_size=batch_size, order={"name": "curriculum", **order})  # type: ignore[arg-type]
    assert isinstance(settings.order, Curriculum)
    return curriculum_stages(settings.order, settings, difficulty)


@pytest.mark.parametrize(
    ("order", "pools"),
    [
        ({"stages": 3}, [(0, 3), (0, 2, 3, 4), (0, 1, 2, 3, 4, 5)]),
        ({"stages": 3, "cumulative": False}, [(0, 3), (2, 4), (1, 5)]),
        ({"stages": 3, "easy_first": False}, [(1, 5), (1, 2, 4, 5), (0, 1, 2, 3, 4, 5)]),
        ({"stages": 4, "cumulative": False}, [(0,), (2, 3), (4,), (1, 5)]),
        ({"stages": 1}, [(0, 1, 2, 3, 4, 5)]),
    ],
)
def test_the_pools_by_hand(order: dict[str, Any], pools: list[tuple[int, ...]]) -> None:
    """Groups 0, 3, 2, 4, 5, 1 from the largest gap down; 2 and 4 are equal, and the first comes first."""
    assert [stage.pool for stage in stages_of(**order)] == pools


@pytest.mark.parametrize(
    ("steps", "order", "first_steps"),
    [
        (12, {"stages": 3}, [0, 4, 8]),
        (10, {"stages": 3}, [0, 4, 7]),
        (12, {"stages": 3, "every": 2}, [0, 2, 4]),
        (3, {"stages": 3}, [0, 1, 2]),
    ],
)
def test_the_steps_that_stages_begin_with(steps: int, order: dict[str, Any], first_steps: list[int]) -> None:
    assert [stage.begin for stage in stages_of(steps=steps, **order)] == [4 * step for step in first_steps]


@st.composite
def curricula(draw: st.DrawFn) -> tuple[list[float], int, Curriculum, int]:
    """Difficulties, steps, the curriculum and the batch size."""
    difficulty = draw(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
    count = draw(st.integers(1, len(difficulty)))
    every = draw(st.none() | st.integers(1, 10))
    steps = count * (every or 1) + draw(st.integers(0, 20))
    order = Curriculum(name="curriculum", stages=count, easy_first=draw(st.booleans()), cumulative=draw(st.booleans()), every=every)
    return difficulty, steps, order, draw(st.integers(1, 8))


def build(difficulty: list[float], steps: int, curriculum: Curriculum, batch_size: int) -> list[Stage]:
    return curriculum_stages(curriculum, Settings(steps=steps, batch_size=batch_size, order=curriculum), difficulty)


@effort(deadline=None)
@given(curricula())
def test_pools_are_nested_or_apart_and_hold_every_group(made: tuple[list[float], int, Curriculum, int]) -> None:
    difficulty, _, curriculum, _ = made
    pools = [set(stage.pool) for stage in build(*made)]
    assert all(pools)
    assert set().union(*pools) == set(range(len(difficulty)))
    parts = [pool - before for before, pool in zip([set(), *pools], pools)] if curriculum.cumulative else pools
    assert all(before < pool for before, pool in pairwise(pools)) or not curriculum.cumulative
    assert sum(map(len, parts)) == len(difficulty), "the parts do not overlap"
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for earlier, later in pairwise(parts):
        easy, hard = (earlier, later) if curriculum.easy_first else (later, earlier)
        assert max(difficulty[group] for group in easy) <= min(difficulty[group] for group in hard)


@effort(deadline=None)
@given(curricula(), st.integers(0, 3))
def test_every_visit_is_new_and_of_its_stage_s_pool(made: tuple[list[float], int, Curriculum, int], seed: int) -> None:
    difficulty, steps, _, batch_size = made
    stages, length = build(*made), steps * batch_size
    order = Order(len(difficulty), seed, stages)
    visits = [order.at(position) for position in range(length)]
    assert len(set(visits)) == length, "(group, draw) never comes twice"
    for stage, end in zip(stages, [*(stage.begin for stage in stages[1:]), length]):
        seen = [group for group, _ in visits[stage.begin : end]]
        for start in range(0, len(seen), len(stage.pool)):
            epoch = seen[start : start + len(stage.pool)]
            assert set(epoch) <= set(stage.pool) and len(set(epoch)) == len(epoch)
    again = Order(len(difficulty), seed, stages)
    assert [again.at(position) for position in reversed(range(length))] == visits[::-1], "of the place alone"


@effort(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12), st.integers(0, 3), st.booleans(), st.booleans())
def test_one_stage_is_the_very_order_of_shuffle(difficulty: list[float], seed: int, easy_first: bool, cumulative: bool) -> None:
    one = Order(len(difficulty), seed, stages_of(difficulty, stages=1, easy_first=easy_first, cumulative=cumulative))
    shuffled = Order(len(difficulty), seed)
    assert [one.at(position) for position in range(50)] == [shuffled.at(position) for position in range(50)]


def test_a_stage_begins_a_new_epoch() -> None:
    """Eight visits of the pool (0, 3) are four epochs; of the next pool, of four groups, eight are two."""
    order = Order(6, 0, stages_of(steps=6, stages=3))
    assert [order.at(position)[1] for position in range(0, 24, 2)] == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 7]
    odd = Order(6, 0, stages_of(steps=6, stages=2, batch_size=1))
    assert [odd.at(position)[1] for position in range(6)] == [0, 0, 0, 1, 1, 1]


def test_other_seeds_give_other_orders() -> None:
    stages = stages_of(stages=2)
    assert len({tuple(Order(6, seed, stages).at(position) for position in range(30)) for seed in range(5)}) == 5


# Settings


def test_an_order_is_a_name_or_a_mapping() -> None:
    assert Settings().order == "shuffle"
    six = Curriculum(name="curriculum", stages=6, easy_first=True, cumulative=True, every=None)
    assert Settings(order="curriculum").order == Settings(order=six).order == six  # type: ignore[arg-type]
    kept = Settings(order={"name": "curriculum", "stages": 3}).model_dump(mode="json")  # type: ignore[arg-type]
    assert kept["order"] == {"name": "curriculum", "stages": 3, "easy_first": True, "cumulative": True, "every": None}
    assert Settings.model_validate(kept).order == six.model_copy(update={"stages": 3})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "random"}, "write shuffle, or a mapping with the name curriculum"),
        ({"order": {"stages": 3}}, "write shuffle, or a mapping with the name curriculum"),
        ({"order": {"name": "curriculum", "stage": 3}}, r"order\.curriculum\.stage\n.*Extra inputs"),
        ({"order": {"name": "shuffle", "stages": 3}}, r"order\.shuffle\n.*should be 'shuffle'"),
        ({"order": {"name": "curriculum", "stages": 0}}, "greater than or equal to 1"),
        ({"steps": 5, "order": "curriculum"}, "the last of 6 stages begins after 5 steps, and the run has 5: it is never reached"),
        ({"steps": 20, "order": {"name": "curriculum", "every": 4}}, "the last of 6 stages begins after 20 steps"),
    ],
)
def test_an_order_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**settings)


def test_more_stages_than_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"7 stages for 6 groups: some would be empty; set order\.stages to 6 or less"):
        stages_of(stages=7)


def test_the_difficulty_of_rows_is_minus_their_gap(tiny_road: Path) -> None:
    cache = LatentCache(tiny_road / "latents")
    rows = read_preferences(tiny_road / "preferences")[:1]
    lists = [Preference("g", "p", ("g1-0", "g2-0", "g3-0"), "list", scores=(0.75, 0.5, 0.0))]
    assert CachedGroups(cache, rows, "pairs").difficulty == [-1.0]
    assert CachedGroups(cache, lists, "lists").difficulty == [-0.75]
    assert CachedGroups(cache, rows, "positives").difficulty is None, "single samples have no gap"
    assert CachedGroups(cache, [Preference("g", "p", ("g1-0",), "labelled", labels=(1,), scores=(1.0,))], "labelled").difficulty is None
    assert CachedGroups(cache, [*rows, Preference("g", "p", ("g1-0", "g2-0"))], "pairs").difficulty is None


# The loop


class Recorder:
    """A task whose loss depends on the whole visit, and that notes every visit it measured."""

    def __init__(self, difficulty: Sequence[float] | None):
        torch.manual_seed(0)
        self.modules: dict[str, nn.Module] = {"linear": nn.Linear(2, 1)}
        self.group_count, self.difficulty = len(GAPS), difficulty
        self.identity: dict[str, Any] = {}
        self.state: dict[str, Tensor] = {}
        self.visits: list[Visit] = []

    def measure(self, visits: list[Visit]) -> Measured:
        self.visits += visits
        value = self.modules["linear"](torch.tensor([[visit.group, visit.draw] for visit in visits]).float()).squeeze(1).square()
        return Measured(value, torch.ones_like(value), {"loss": value})

    def summarise(self, numbers: dict[str, Tensor]) -> dict[str, float]:
        return {"loss": float(numbers["loss"].double().mean())}

    def update(self, step: int) -> None: ...

    def follow(self, step: int, metrics: dict[str, float]) -> None: ...

    def buffer(self) -> dict[str, Tensor]:
        return {}

    def refill(self, buffer: dict[str, Tensor]) -> None: ...

    def warnings(self, history: list[dict[str, float]]) -> dict[str, str]:
        return {}

    def describe(self, visit: Visit) -> str:
        return f"group {visit.group}"

    def write(self, folder: Path) -> None:
        (folder / "weights.json").write_text(json.dumps(self.modules["linear"].weight.tolist()))


RUN = {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "tracker": None, "order": {"name": "curriculum", "stages": 3}}


def run(folder: Path, stop_after: int | None = None, difficulty: Sequence[float] | None = DIFFICULTY, **changes: Any) -> list[Visit]:
    task = Recorder(difficulty)
    train(task, Settings(**{**RUN, **changes}), folder, stop_after=stop_after)
    return task.visits


def test_a_run_visits_its_pools_in_turn_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    assert [sorted({visit.group for visit in whole[start : start + 8]}) for start in (0, 8, 16)] == [
        *[[0, 3], [0, 2, 3, 4], [0, 1, 2, 3, 4, 5]],
    ]
    assert [visit for stop in (1, 2, None) for visit in run(tmp_path / "parts", stop)] == whole
    for name in ("metrics.jsonl", "final/weights.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert run(tmp_path / "split", micro_batch_size=1) == whole


def test_another_order_is_another_run(tmp_path: Path) -> None:
    run(tmp_path, stop_after=2)
    with pytest.raises(ValueError, match=r"settings\.order\.stages: checkpoint has 3, this run 2"):
        run(tmp_path, order={"name": "curriculum", "stages": 2})
    with pytest.raises(ValueError, match=r"settings\.order: checkpoint has None, this run 'shuffle'"):
        run(tmp_path, order="shuffle")


def test_a_curriculum_without_scores_is_refused_and_a_shuffle_needs_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"order 'curriculum' sorts by the gap .* these rows have none .*set order to shuffle"):
        run(tmp_path, difficulty=None)
    order = Order(6, 0)
    assert run(tmp_path, difficulty=None, order="shuffle") == [Visit(*order.at(place), place=place) for place in range(24)]
