"""Guided and perturbed candidates: what they are made of, what the records say, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone, Loader
from fake_endpoint import Server
from small_road import make_config, save_tiny_pipeline

from diffalign.data.modalities.image import Image
from diffalign.data.records import ASKED, STRATEGY, Candidate, read_candidates, write_candidates
from pipelines.generate import run
from pipelines.model import load_model
from pipelines.progress import Progress
from pipelines.strategies import Guided, Perturbed, vary_media
from reward_models.worlds import load_world

QUIET = Progress(silent=True)
WORLD = {"world": "shapes", "count": 6}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("model") / "tiny")


def generate(folder: Path, model: Path, **settings: Any) -> list[Candidate]:
    section = {"prompts": WORLD, "samples_per_prompt": 2, "steps": 4, "long_prompts": "truncate", **settings}
    run(make_config(folder, model, generate=section), progress=QUIET)
    return list(read_candidates(folder / "candidates"))


# Guided


def test_guided_samples_are_variations_of_the_prompt_s_real_medium(tmp_path: Path, model: Path) -> None:
    """Each repeated by hand: the render noised to the group's level with noise of the sample's seed, then denoised."""
    found = generate(tmp_path, model, guided={"world": "shapes", "low": 0.2, "high": 0.9}, guidance=2.0)
    guided, backbone = Guided(world="shapes", low=0.2, high=0.9), load_model(make_config(tmp_path, model).model)
    real = guided.source(3)
    assert len(found) == 12
    strengths = {guided.strength(3, candidate.group_id, k % 2) for k, candidate in enumerate(found)}
    assert len(strengths) == 6 and all(0.2 <= strength <= 0.9 for strength in strengths)
    for k in (0, 3):
        candidate = found[k]
        again = vary_media(
            backbone, [real(candidate.prompt)], [candidate.prompt], [candidate.seed or 0], [guided.strength(3, candidate.group_id, k % 2)],
            steps=4, guidance=2.0, negative_prompt="", size=None,
        )  # fmt: skip
        assert np.abs(again[0].pixels().astype(int) - candidate.media.pixels()).max() <= 1  # type: ignore[attr-defined]


def test_one_level_for_a_group_or_one_for_each_sample() -> None:
    shared, own = Guided(world="shapes"), Guided(world="shapes", same_strength=False)
    assert shared.strength(0, "g", 0) == shared.strength(0, "g", 1) != shared.strength(0, "h", 0) != shared.strength(1, "h", 0)
    assert own.strength(0, "g", 0) != own.strength(0, "g", 1)
    drawn = [shared.strength(0, f"g{index}", 0) for index in range(2000)]
    assert 0.65 <= min(drawn) < 0.66 and 0.79 < max(drawn) <= 0.8 and abs(np.mean(drawn) - 0.725) < 0.003


def test_real_media_of_a_folder(tmp_path: Path) -> None:
    media = [Image.from_pixels(np.full((4, 4, 3), value, np.uint8)) for value in range(3)]
    rows = [Candidate(f"c{index}", "g", prompt, item) for index, (prompt, item) in enumerate(zip(("a", "b", "a"), media))]
    write_candidates(tmp_path / "shard-00000.parquet", rows)
    find = Guided(media=tmp_path).source(0)
    assert find("a").identity() == media[0].identity() and find("b").identity() == media[1].identity()
    with pytest.raises(ValueError, match=r"no candidate in .* has the prompt 'c'; draw the prompts from that set"):
        find("c")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of world .* and media"),
        ({"world": "shapes", "media": "x"}, "exactly one of world .* and media"),
        ({"world": "shape"}, "unknown world 'shape'; choose one of: shapes"),
        ({"world": "shapes", "low": 0.9}, r"low 0\.9 is above high 0\.8"),
    ],
)
def test_guided_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guided(**settings)


# Perturbed


def test_samples_of_wrong_prompts_answer_the_group_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is sampled from its wrong prompt, is recorded under the right one, and says what was asked and what is wrong with it."""
    import pipelines.generate

    asked: list[str] = []
    loader = Loader()
    monkeypatch.setattr(pipelines.generate, "load_model", loader)
    sample = FakeBackbone.sample

    def spy(self: FakeBackbone, prompts: list[str], *arguments: Any, **named: Any) -> list[Image]:
        asked.extend(prompts)
        return sample(self, prompts, *arguments, **named)

    monkeypatch.setattr(FakeBackbone, "sample", spy)
    monkeypatch.setattr(FakeBackbone, "token_limit", 99)
    section = {"prompts": WORLD, "samples_per_prompt": 2, "perturbed": {"count": 3}}
    run(make_config(tmp_path, Path("fake/model"), generate=section), progress=QUIET)
    found, world = list(read_candidates(tmp_path / "candidates")), load_world("shapes")
    assert len(found) == 30 and len({candidate.candidate_id for candidate in found}) == 30
    wrong = [candidate for candidate in found if STRATEGY in candidate.tags]
    assert len(wrong) == 18
    for candidate in wrong:
        mistakes = world.perturb(candidate.prompt)[candidate.tags[STRATEGY]]
        assert world.parse(candidate.tags[ASKED]) in mistakes
    assert sorted(asked) == sorted([candidate.tags.get(ASKED, candidate.prompt) for candidate in found])
    assert {candidate.tags["task"] for candidate in found} <= set(world.TASKS)


def test_strategies_take_turns_and_run_out() -> None:
    caption, world = "a red circle left of a blue square", load_world("shapes")
    kinds = sorted(world.perturb(caption))
    drawn = Perturbed(count=len(kinds) + 1).wrong(caption, "shapes", 0, "g")
    assert sorted(strategy for strategy, _ in drawn[: len(kinds)]) == kinds and len({text for _, text in drawn}) == len(drawn)
    assert drawn == Perturbed(count=len(kinds) + 1).wrong(caption, "shapes", 0, "g") != Perturbed(count=9).wrong(caption, "shapes", 1, "g")
    sides = Perturbed(count=5, strategies=("side",)).wrong(caption, "shapes", 0, "g")
    assert [strategy for strategy, _ in sides] == ["side"] and world.parse(sides[0][1]).items[0].shape == "square"
    with pytest.raises(ValueError, match=r"the prompts are of no world; set perturbed\.endpoint"):
        Perturbed().wrong("a photo", None, 0, "g")


def test_a_config_without_strategies_is_as_it_was(tmp_path: Path, model: Path) -> None:
    """What was generated before they joined stays current: they are not in its record."""
    generate(tmp_path, model)
    record = json.loads((tmp_path / "candidates/stage.json").read_text())
    assert not {"guided", "perturbed"} & set(record["settings"])


# A language model


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def test_a_language_model_writes_wrong_prompts(server: Server) -> None:
    caption = "a dog barks while rain falls"
    rows = [
        {"strategy": "drop", "caption": "a dog barks"},
        {"strategy": "order", "caption": caption},  # not wrong
        {"strategy": "replace", "caption": "a cat meows while rain falls"},
        {"strategy": "add", "caption": " "},
        {"caption": "a dog barks while snow falls"},
        "nonsense",
    ]
    server.answers = ["Here you are: " + json.dumps({"captions": rows})]
    perturbed = Perturbed.model_validate({"endpoint": {"url": server.url, "model": "m"}, "count": 3})
    assert perturbed.wrong(caption, None, 0, "g") == [
        ("drop", "a dog barks"), ("replace", "a cat meows while rain falls"), ("replace", "a dog barks while snow falls")
    ]  # fmt: skip
    assert caption in server.asked[0]["messages"][0]["content"] and "3 captions" in server.asked[0]["messages"][0]["content"]
    server.answers = ['{"captions": []}']
    with pytest.raises(ValueError, match="gave no wrong captions for 'a dog barks while rain falls'"):
        perturbed.wrong(caption, None, 0, "g")
    with pytest.raises(ValueError, match="give world or endpoint, not both"):
        Perturbed.model_validate({"endpoint": {"url": server.url, "model": "m"}, "world": "shapes"})
