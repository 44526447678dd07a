"""Guided and perturbed candidates: what they are made of, what the records say, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from decoded import watch
from fake_backbone import FakeBackbone, Loader, fake_config
from fake_endpoint import Server
from small_road import make_config, save_tiny_pipeline
from tiny_timed import save_tiny_wan

from diffalign.backbones import load_backbone
from diffalign.data.modalities.image import Image
from diffalign.data.records import ASKED, STRATEGY, STRENGTH, Candidate, read_candidates, write_candidates
from diffalign.endpoint import Endpoint, Unanswered
from pipelines.config import Config
from pipelines.generate import run
from pipelines.model import load_model
from pipelines.progress import Progress
from pipelines.strategies import Guided, Perturbed, vary_media
from pipelines.wrong_prompts import ask_for_wrong
from reward_models.worlds import WORLDS, load_world

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
            backbone, [real(candidate.prompt, backbone.size, None).media], [candidate.prompt], [candidate.seed or 0],
            [guided.strength(3, candidate.group_id, k % 2)], steps=4, guidance=2.0, negative_prompt="", size=None,
        )  # fmt: skip
        assert np.abs(again[0].pixels().astype(int) - candidate.media.pixels()).max() <= 1  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers hands tensors to numpy
def test_guided_clips_of_a_group_are_variations_of_one_clip(tmp_path: Path) -> None:
    """Each repeated by hand, longer than the world's own clips: one render and one level for both, a seed of its own for each."""
    source, size = save_tiny_wan(tmp_path), (21, 16, 16)
    config = make_config(tmp_path / "run", source, generate={
        "prompts": {"world": "motion", "count": 2}, "samples_per_prompt": 2, "steps": 3, "guidance": 2.0, "size": size,
        "guided": {"world": "motion"}, "long_prompts": "truncate",
    })  # fmt: skip
    config = config.model_copy(update={"model": config.model.model_copy(update={"backbone": "wan"})})
    run(config, progress=QUIET)
    found, guided, backbone = list(read_candidates(tmp_path / "run/candidates")), Guided(world="motion"), load_model(config.model)
    assert len(found) == 4 and len({candidate.seed for candidate in found}) == 4
    for first, second in (found[:2], found[2:]):
        assert first.group_id == second.group_id and first.media.identity() != second.media.identity()
        assert first.tags[STRENGTH] == second.tags[STRENGTH] == str(guided.strength(3, first.group_id, 0)) and first.parent is None
        clip = guided.source(3)(first.prompt, size, backbone.rate).media
        again = vary_media(
            backbone, [clip, clip], [first.prompt] * 2, [first.seed or 0, second.seed or 0], [float(first.tags[STRENGTH])] * 2,
            steps=3, guidance=2.0, negative_prompt="", size=size,
        )  # fmt: skip
        for made, candidate in zip(again, (first, second), strict=True):
            assert np.abs(made.frames().astype(int) - candidate.media.frames()).max() <= 1  # type: ignore[attr-defined]
    assert len({candidate.tags[STRENGTH] for candidate in found}) == 2


@pytest.mark.parametrize("family", ["wan", "stable_diffusion"])
def test_a_model_in_half_precision_varies_media_in_float32(
    family: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes into the denoiser is of its own dtype, and the path is not; Wan's autoencoder is float32."""
    import diffalign.sampling

    is_wan = family == "wan"
    source, world, prompt = (save_tiny_wan(tmp_path), "motion", "a red circle moves right") if is_wan else (model, "shapes", "a red circle")
    points: list[torch.Tensor] = []
    follow = diffalign.sampling.follow_path

    def spy(*arguments: Any) -> torch.Tensor:
        points.append(follow(*arguments))
        return points[-1]

    monkeypatch.setattr(diffalign.sampling, "follow_path", spy)
    for dtype in (torch.float32, torch.bfloat16):
        backbone = load_backbone(family, str(source), dtype=dtype)
        media = [Guided(world=world).source(0)(prompt, backbone.size, backbone.rate).media] * 2
        vary_media(backbone, media, [prompt] * 2, [1, 2], [0.7] * 2, steps=3, guidance=2.0, negative_prompt="", size=None)
    exact, found = points
    assert found.dtype == torch.float32 and not torch.equal(found[:, 0], found[:, 0].bfloat16().float())
    assert float((found - exact).norm()) < 0.05 * float(exact.norm())


@pytest.mark.parametrize(
    ("world", "sizes", "rate"), [("motion", [(13, 32, 32), (21, 32, 32)], 8.0), ("tones", [(32_768,), (65_536,)], 16e3)]
)
def test_renders_to_start_from_are_as_long_as_the_samples(world: str, sizes: list[tuple[int, ...]], rate: float) -> None:
    """Whole: the beginning of a longer one would lack what comes last."""
    real, package = Guided(world=world).source(0), load_world(world)
    for prompt in package.prompts("train", 6, 0):
        for size in sizes:
            media = real(prompt.text, size, rate).media
            assert media.shape_of(media.columns, None) == size and media.tensor(size, rate).shape[1:] == size
            given = media.frames() if world == "motion" else media.waveform()[0]  # type: ignore[attr-defined]
            assert package.verify(prompt.text, given)["overall"] == 1.0


def test_one_level_for_a_group_or_one_for_each_sample() -> None:
    shared, own = Guided(world="shapes"), Guided(world="shapes", same_strength=False)
    assert shared.strength(0, "g", 0) == shared.strength(0, "g", 1) != shared.strength(0, "h", 0) != shared.strength(1, "h", 0)
    assert own.strength(0, "g", 0) != own.strength(0, "g", 1)
    drawn = [shared.strength(0, f"g{index}", 0) for index in range(2000)]
    assert 0.65 <= min(drawn) < 0.66 and 0.79 < max(drawn) <= 0.8 and abs(np.mean(drawn) - 0.725) < 0.003


def test_real_media_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media = save_real(tmp_path, {"a": 0, "b": 1}) + save_real(tmp_path, {"a": 2}, shard=1)
    find = Guided(media=tmp_path).source(0)
    assert [find(prompt, (4, 4), None).media.identity() for prompt in "ab"] == [item.identity() for item in media[:2]]
    assert [find(prompt, (4, 4), None).candidate_id for prompt in "ab"] == ["c0", "c1"]
    with pytest.raises(ValueError, match=r"no candidate in .* has the prompt 'c'; draw the prompts from that set"):
        find("c", (4, 4), None)
    decoded = watch(monkeypatch, "image")
    assert [find(prompt, (4, 4), None).media.pixels()[0, 0, 0] for prompt in "aba"] == [0, 1, 0]  # type: ignore[attr-defined]
    assert len(decoded.arrays) == 3 and decoded.alive == 0  # a set of videos is larger than memory


def save_real(folder: Path, greys: dict[str, int], shard: int = 0) -> list[Image]:
    """A shard of candidates, a grey picture for each prompt."""
    folder.mkdir(exist_ok=True)
    media = [Image.from_pixels(np.full((16, 16, 3), grey, np.uint8)) for grey in greys.values()]
    rows = [Candidate(f"c{grey}", "g", prompt, item) for (prompt, grey), item in zip(greys.items(), media, strict=True)]
    write_candidates(folder / f"shard-{shard:05d}.parquet", rows)
    return media


def test_what_guided_samples_were_made_from_is_recorded_and_may_not_change_under_them(tmp_path: Path, model: Path) -> None:
    real, prompts = tmp_path / "real", {"a red circle": 30, "a blue circle": 200}
    save_real(real, prompts)
    section = {"prompts": {"texts": list(prompts)}, "guided": {"media": str(real)}, "prompts_per_shard": 1}
    made = generate(tmp_path / "run", model, **section)
    assert [candidate.parent for candidate in made] == ["c30", "c30", "c200", "c200"]
    guided = Guided(media=real)
    assert [candidate.tags[STRENGTH] for candidate in made] == [str(guided.strength(3, each.group_id, 0)) for each in made]
    (tmp_path / "run/candidates/shard-00001.parquet").unlink()
    (real / "stage.json").write_text("{}")  # no part of the media
    again = generate(tmp_path / "run", model, **section)
    assert [each.media.identity() for each in again] == [each.media.identity() for each in made]
    (tmp_path / "run/candidates/shard-00001.parquet").unlink()
    save_real(real, {prompt: grey + 20 for prompt, grey in prompts.items()})
    with pytest.raises(ValueError, match=r"guided\.files: was \"sha256:.*\", is now \"sha256:"):
        generate(tmp_path / "run", model, **section)


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


def test_guided_samples_have_no_scheduler(tmp_path: Path) -> None:
    """Before anything is loaded: they follow a path of their own, which no scheduler changes."""
    section = {"prompts": WORLD, "guided": {"world": "shapes"}}
    with pytest.raises(ValueError, match=r"scheduler 'ddim' is of samples from noise.*remove generate\.scheduler or generate\.guided"):
        make_config(tmp_path, Path("fake/model"), generate={**section, "scheduler": "ddim"})
    make_config(tmp_path, Path("fake/model"), generate={**section, "scheduler": "ddim", "guided": None})


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


@pytest.mark.parametrize(("steps", "given", "expected"), [([5, 9], None, 9), ([9, 5], 7, 7), ([9], 5, 5)])
def test_samples_of_wrong_prompts_have_steps_of_their_own(
    steps: list[int], given: int | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most of the group's, or as asked; guidance, sizes and models take turns on."""
    import pipelines.generate

    monkeypatch.setattr(pipelines.generate, "load_model", Loader())
    section = {
        "prompts": {"texts": ["a red circle"]}, "samples_per_prompt": 2, "steps": steps, "guidance": [1.0, 2.0, 4.0],
        "size": [[8, 8], [16, 16]], "models": ["one", "second"], "long_prompts": "truncate",
        "perturbed": {"world": "shapes", "count": 3, **({"steps": given} if given else {})},
    }  # fmt: skip
    run(make_config(tmp_path, Path("one"), generate=section), progress=QUIET)
    found = sorted(read_candidates(tmp_path / "candidates"), key=lambda each: each.candidate_id)
    assert [each.steps for each in found] == [steps[0], steps[-1], expected, expected, expected]
    assert [each.guidance for each in found] == [1.0, 2.0, 4.0, 1.0, 2.0]
    assert [each.media.size for each in found] == [(8, 8), (16, 16)] * 2 + [(8, 8)]  # type: ignore[attr-defined]
    assert [each.model for each in found] == ["one", "second", "one", "second", "one"]


def test_what_wrong_prompts_are_sampled_with_is_recorded_where_it_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of one number of steps is what it was; one of several is not to go on with other steps than it began with."""
    import pipelines.generate

    monkeypatch.setattr(pipelines.generate, "load_model", Loader())
    for place, (steps, expected) in enumerate(((4, None), ([4, 4], None), ([2, 4], 4))):
        section = {"prompts": {"texts": ["a red circle"]}, "steps": steps, "long_prompts": "truncate", "perturbed": {"world": "shapes"}}
        run(make_config(tmp_path / str(place), Path("one"), generate=section), progress=QUIET)
        record = json.loads((tmp_path / str(place) / "candidates/stage.json").read_text())
        assert record["settings"]["perturbed"].get("steps") == expected


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
    with pytest.raises(ValueError, match=r"perturbed\.strategies has 'sides', which the shapes world has not; it has: colour, shape, "):
        Perturbed(strategies=("side", "sides")).wrong(caption, "shapes", 0, "g")


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_names_all_its_strategies(name: str) -> None:
    world = load_world(name)
    found = {strategy for prompt in world.prompts("train", 300, 0) for strategy in world.perturb(prompt.text)}
    assert found == set(world.STRATEGIES)


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
    found.close()


def test_a_language_model_writes_wrong_prompts(server: Server) -> None:
    caption = "a dog barks while rain falls"
    rows = [
        {"strategy": "drop", "caption": "a dog barks"},
        {"strategy": "order", "caption": " A dog  barks while Rain falls"},  # not wrong
        {"strategy": "add", "caption": "“A dog barks, while rain falls!”"},  # nor this
        {"strategy": "Replace ", "caption": "a cat meows while  rain falls"},
        {"strategy": "add", "caption": " "},
        {"strategy": "add", "caption": "…"},
        {"strategy": "the dog is a wolf", "caption": "a wolf howls while rain falls"},
        {"strategy": "add", "caption": "A dog barks."},  # again
        {"caption": "a dog barks while snow falls"},
        "nonsense",
    ]
    server.answers = ["Here you are: " + json.dumps({"captions": rows})]
    endpoint = Endpoint(url=server.url, model="m", retries=1)
    wrong = ask_for_wrong(endpoint, caption, 4)
    assert wrong == [
        ("drop", "a dog barks"), ("replace", "a cat meows while rain falls"), ("other", "a wolf howls while rain falls"),
        ("other", "a dog barks while snow falls"),
    ]  # fmt: skip
    assert ask_for_wrong(endpoint, caption, 2) == wrong[:2]
    assert caption in server.asked[0]["messages"][0]["content"] and "4 captions" in server.asked[0]["messages"][0]["content"]
    for answer in ('{"captions": []}', '{"captions": 3}', json.dumps({"captions": rows[1:3]}), "[]", "no"):
        server.answers = [answer]
        with pytest.raises(Unanswered, match="no wrong captions for 'a dog barks while rain falls'"):
            ask_for_wrong(endpoint, caption, 2)
    with pytest.raises(ValueError, match="give world or endpoint, not both"):
        Perturbed.model_validate({"endpoint": {"url": server.url, "model": "m"}, "world": "shapes"})


TEXTS = [f"prompt {index}" for index in range(6)]


def counted(question: dict[str, Any]) -> str:
    """Wrong captions that no other call gives: of one prompt another number of them, and other words, each time it is asked."""
    counted.calls += 1  # type: ignore[attr-defined]
    captions = [f"wrong {counted.calls} {index}" for index in range(1 + counted.calls % 2)]  # type: ignore[attr-defined]
    return json.dumps({"captions": [{"strategy": "drop", "caption": caption} for caption in captions]})


def asked_prompt(question: dict[str, Any]) -> str:
    return question["messages"][0]["content"].split("'")[1]


def wrong_config(run: Path, server: Server, **settings: Any) -> Config:
    perturbed = {"count": 2, "endpoint": {"url": server.url, "model": "m", "retries": 0}} | settings.pop("perturbed", {})
    return fake_config(run, generate={"samples_per_prompt": 2, "perturbed": perturbed, **settings})


@pytest.fixture
def answering(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    import pipelines.generate

    monkeypatch.setattr(pipelines.generate, "load_model", Loader())
    counted.calls = 0  # type: ignore[attr-defined]
    server.answers = [counted]
    return server


def wrong_of(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for candidate in read_candidates(folder / "candidates"):
        if STRATEGY in candidate.tags:
            found.setdefault(candidate.prompt, []).append(candidate.tags[ASKED])
    return found


def test_a_prompt_is_asked_about_once(tmp_path: Path, answering: Server) -> None:
    """Answers that differ each time: the candidates, their number and a run of the complete stage are of the first ones."""
    config = wrong_config(tmp_path, answering)
    run(config, progress=QUIET)
    assert sorted(map(asked_prompt, answering.asked)) == TEXTS
    wrong, record = wrong_of(tmp_path), json.loads((tmp_path / "candidates/stage.json").read_text())
    texts = [text for texts in wrong.values() for text in texts]
    assert len(texts) == len(set(texts)) == 9 and record["summary"]["candidates"] == 6 * 2 + 9 == len(
        list(read_candidates(tmp_path / "candidates"))
    )
    assert record["summary"]["usage"] == {"questions": 6, "prompt_tokens": 42, "completion_tokens": 12}
    answering.close()
    run(config, progress=QUIET)
    assert wrong_of(tmp_path) == wrong
    (tmp_path / "candidates/shard-00001.parquet").unlink()
    run(config, progress=QUIET)  # still nobody to ask
    assert wrong_of(tmp_path) == wrong and json.loads((tmp_path / "candidates/stage.json").read_text())["summary"] == record["summary"]


def test_questions_are_asked_at_once(tmp_path: Path, answering: Server) -> None:
    together = Barrier(3, timeout=20)  # breaks unless three are under way

    def meet(question: dict[str, Any]) -> str:
        together.wait()
        return counted(question)

    answering.answers = [meet]
    run(wrong_config(tmp_path, answering, perturbed={"at_once": 3}), progress=QUIET)
    assert len(answering.asked) == 6


def test_two_models_share_the_wrong_prompts(tmp_path: Path, answering: Server) -> None:
    run(wrong_config(tmp_path, answering, models=["one", "second"], samples_per_prompt=1), progress=QUIET)
    assert len(answering.asked) == 6
    lines = [json.loads(line) for line in (tmp_path / "candidates/wrong.jsonl").read_text().splitlines()]
    made = list(read_candidates(tmp_path / "candidates"))
    for line in lines:
        mine = {each.candidate_id[-2:]: each for each in made if each.prompt == line["prompt"]}
        assert [mine[place].tags.get(ASKED) for place in sorted(mine)] == [None, *(text for _, text in line["wrong"])]
        assert [mine[place].model for place in sorted(mine)] == ["one", "second", "one"][: 1 + len(line["wrong"])]


def test_one_refusal_leaves_the_others(tmp_path: Path, answering: Server) -> None:
    def refuse(question: dict[str, Any]) -> Any:
        return (400, {}, "no") if asked_prompt(question) == TEXTS[2] else counted(question)

    answering.answers = [refuse]
    with pytest.raises(ValueError, match=r"no wrong captions for 1 prompts, more than max_unanswered=0.*HTTP 400"):
        run(wrong_config(tmp_path / "strict", answering, perturbed={"max_unanswered": 0}), progress=QUIET)
    config = wrong_config(tmp_path / "run", answering)
    run(config, progress=QUIET)
    assert sorted(wrong_of(tmp_path / "run")) == [text for text in TEXTS if text != TEXTS[2]]
    assert sum(each.prompt == TEXTS[2] for each in read_candidates(tmp_path / "run/candidates")) == 2
    summary = json.loads((tmp_path / "run/candidates/stage.json").read_text())["summary"]
    assert summary["unanswered"]["prompts"] == 1 and "HTTP 400" in summary["unanswered"]["first"]
    answering.close()
    (tmp_path / "run/candidates/shard-00001.parquet").unlink()
    run(config, progress=QUIET)  # the one that was refused is not asked about again


def test_a_language_model_that_refuses_everything_ends_the_run_and_is_asked_again(tmp_path: Path, answering: Server) -> None:
    answering.answers = [(403, {}, "no permission")]
    config = wrong_config(tmp_path, answering)
    with pytest.raises(ValueError, match=r"wrong captions for none of 6 prompts; mend what the server says.*HTTP 403: no permission"):
        run(config, progress=QUIET)
    answering.answers = [counted]
    run(config, progress=QUIET)
    assert len(wrong_of(tmp_path)) == 6


def test_refusals_above_the_limit_are_asked_about_again(tmp_path: Path, answering: Server) -> None:
    answering.answers = [lambda question: (400, {}, "no") if asked_prompt(question) == TEXTS[5] else counted(question)]
    config = wrong_config(tmp_path, answering, perturbed={"max_unanswered": 0})
    with pytest.raises(ValueError, match="more than max_unanswered=0"):
        run(config, progress=QUIET)
    answering.answers, before = [counted], len(answering.asked)
    run(config, progress=QUIET)
    assert [asked_prompt(each) for each in answering.asked[before:]] == [TEXTS[5]] and len(wrong_of(tmp_path)) == 6


def test_a_cut_off_run_goes_on_where_it_was(tmp_path: Path, answering: Server) -> None:
    """The server dies at the fourth question, and a kill leaves half a line: what was answered stays, the rest is asked once."""
    answering.answers = [counted, counted, counted, (500, {}, "down")]
    config = wrong_config(tmp_path, answering, perturbed={"at_once": 1})
    with pytest.raises(ConnectionError):
        run(config, progress=QUIET)
    file = tmp_path / "candidates/wrong.jsonl"
    kept = file.read_text()
    assert kept.count("\n") == 3
    file.write_text(kept + '{"question": "')
    answering.answers, answering.asked = [counted], []
    run(config, progress=QUIET)
    assert [asked_prompt(each) for each in answering.asked] == TEXTS[3:] and file.read_text().startswith(kept)
    assert sorted(text.split()[1] for texts in wrong_of(tmp_path).values() for text in texts if text.endswith("0")) == list("123456")
    assert json.loads((tmp_path / "candidates/stage.json").read_text())["summary"]["usage"]["questions"] == 6


def test_answers_of_another_model_are_not_taken(tmp_path: Path, answering: Server) -> None:
    answering.answers = [counted, counted, (500, {}, "down")]
    with pytest.raises(ConnectionError):
        run(wrong_config(tmp_path, answering, perturbed={"at_once": 1}), progress=QUIET)
    answering.answers, answering.asked = [counted], []
    endpoint = {"url": answering.url, "model": "another", "retries": 0}
    run(wrong_config(tmp_path, answering, perturbed={"endpoint": endpoint}), progress=QUIET)
    assert len(answering.asked) == 6


def test_a_line_that_is_no_answer_is_named(tmp_path: Path, answering: Server) -> None:
    (tmp_path / "candidates").mkdir()
    (tmp_path / "candidates/wrong.jsonl").write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"wrong\.jsonl has a line that is no answer.*remove the line"):
        run(wrong_config(tmp_path, answering), progress=QUIET)
