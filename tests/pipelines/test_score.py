from __future__ import annotations

import json
import math
import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from decoded import watch
from fake_backbone import Loader, fake_config, loader  # noqa: F401 (a fixture)
from fake_endpoint import Server, rating
from test_generate import kill_once

import pipelines.score
from diffalign.data import shards
from diffalign.data.modalities.image import Image
from diffalign.data.records import Candidate, read_candidates, read_preferences, read_scores
from pipelines.config import Config
from pipelines.generate import run as generate
from pipelines.memory import release_memory
from pipelines.pair import Pair
from pipelines.pair import run as pair
from pipelines.progress import Progress
from pipelines.score import Score, check_reward, open_reward, run, score_media
from pipelines.unanswered import Unscored

QUIET = Progress(silent=True)
REWARDS = {"rewards": {"sharpness": {}, "contrast": {}}}


class Fake:
    """Gives what it is told; remembers its calls."""

    name: ClassVar[str] = "fake"
    revision: str = "1"
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    dimensions: tuple[str, ...] = ("first", "second")
    groupwise = False

    def __init__(self, **changes: Any) -> None:
        self.answer: Any = None
        self.unanswered: list[str] = []
        self.calls: list[list[str]] = []
        self.itself: Fake | None = None
        for name, value in changes.items():
            setattr(self, name, value)

    def __call__(self, prompts: Sequence[str], media: Sequence[Image]) -> dict[str, list[float]]:
        self.calls.append(list(prompts))
        if self.answer is not None:
            return self.answer
        means = [float(item.pixels().mean()) for item in media]
        return {"first": means, "second": [-mean for mean in means]}


@pytest.fixture
def config(tmp_path: Path, loader: Loader) -> Config:  # noqa: F811
    found = fake_config(tmp_path / "run", score=REWARDS)
    generate(found, progress=QUIET)
    return found


def test_what_was_decoded_is_let_go_of_with_its_batch(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a shard of eight candidates three are decoded at a time, each once by each reward; the group of four by a groupwise reward."""
    assert config.score is not None
    rewards = Score(rewards={**config.score.rewards, "best": {"reward": "ensemble", "of": ["sharpness", "contrast"]}}, batch_size=3)
    decoded = watch(monkeypatch, "image")
    run(config.model_copy(update={"score": rewards}), progress=QUIET)
    assert len(decoded.arrays) == 3 * 24 and decoded.most <= 4 and decoded.alive == 0


def pictures(count: int) -> list[Image]:
    return [Image.from_pixels(np.full((8, 8, 3), index, np.uint8)) for index in range(count)]


def test_scores_are_those_of_the_reward_alone(config: Config) -> None:
    run(config, progress=QUIET)
    scores = read_scores(config.run / "scores")
    assert set(scores) == {"sharpness.score", "contrast.score"}
    candidates = list(read_candidates(config.run / "candidates"))
    assert set(scores["contrast.score"]) == {row.candidate_id for row in candidates}
    alone = open_reward("contrast", {})([candidates[9].prompt], [candidates[9].media])["score"][0]
    assert scores["contrast.score"][candidates[9].candidate_id] == alone


def test_a_second_run_loads_no_reward_and_a_new_reward_rewrites_nothing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    run(config, progress=QUIET)
    before = {path: path.stat().st_mtime_ns for path in (config.run / "scores").rglob("*.*")}
    more = fake_config(config.run, score={"rewards": {**REWARDS["rewards"], "saturation": {}}})
    loaded: list[str] = []
    monkeypatch.setattr(pipelines.score, "open_reward", lambda name, settings: (loaded.append(name), open_reward(name, settings))[1])
    run(config, progress=QUIET)
    assert loaded == []
    run(more, progress=QUIET)
    assert loaded == ["saturation"] and all(path.stat().st_mtime_ns == mtime for path, mtime in before.items())


def test_one_reward_twice_under_two_names(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    config = fake_config(tmp_path, score={"rewards": {"a": {"reward": "contrast"}, "b": {"reward": "sharpness"}}})
    generate(config, progress=QUIET)
    run(config, progress=QUIET)
    assert set(read_scores(tmp_path / "scores")) == {"a.score", "b.score"}


def test_scoring_before_generating_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"score needs .*candidates.*first: diffalign generate CONFIG"):
        run(fake_config(tmp_path, score=REWARDS), progress=QUIET)


def test_candidates_that_lost_a_shard_are_not_scored(config: Config) -> None:
    (config.run / "candidates" / "shard-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"generate has lost files \(1, the first: shard-00001\.parquet\).*diffalign generate"):
        run(config, progress=QUIET)
    generate(config, progress=QUIET)
    run(config, progress=QUIET)
    assert len(read_scores(config.run / "scores")["contrast.score"]) == 24


def test_changed_settings_of_a_reward_are_refused(config: Config) -> None:
    run(fake_config(config.run, score={"rewards": {"mine": {"reward": "contrast"}}}), progress=QUIET)
    with pytest.raises(ValueError, match='reward: was "contrast", is now "sharpness"'):
        run(fake_config(config.run, score={"rewards": {"mine": {"reward": "sharpness"}}}), progress=QUIET)


def test_two_revisions_are_not_mixed(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = Fake()
    monkeypatch.setattr(pipelines.score, "open_reward", lambda name, settings: reward)
    mine = fake_config(config.run, score={"rewards": {"mine": {"reward": "contrast"}}})
    run(mine, progress=QUIET)
    (config.run / "scores" / "mine" / "shard-00001.parquet").unlink()
    reward.revision = "2"
    with pytest.raises(ValueError, match=r"begun with revision '1' .* installed is '2'.*--redo"):
        run(mine, progress=QUIET)
    run(mine, redo=True, progress=QUIET)
    assert json.loads((config.run / "scores" / "mine" / "stage.json").read_text())["summary"]["revision"] == "2"


def test_the_revision_is_on_disk_before_the_first_score(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill must not lose it: the scores after it would be of whatever revision is installed then."""
    mine = fake_config(config.run, score={"rewards": {"mine": {"reward": "contrast"}}})
    seen = []

    def spy(reward: Any, *arguments: Any, **settings: Any) -> Any:
        seen.append(json.loads((config.run / "scores" / "mine" / "stage.json").read_text())["revisions"])
        return score_media(reward, *arguments, **settings)

    monkeypatch.setattr(pipelines.score, "score_media", spy)
    run(mine, progress=QUIET)
    assert seen == [{"mine": open_reward("contrast", {}).revision}] * 3


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"first": [1.0, math.nan, 1.0], "second": [1.0] * 3}, "reward 'fake' gave first = nan for 'b'"),
        ({"first": [1.0, 2.0, 1.0], "second": [1.0, math.inf, 0.0]}, "second = inf for 'b'"),
        ({"first": [1.0, 2.0], "second": [1.0] * 3}, "gave 2 scores of 'first' for 3 items"),
        ({"first": [1.0] * 3}, "gave first; it declares the dimensions first, second"),
        ([1.0] * 3, "gave list; it declares"),
    ],
)
def test_wrong_answers_are_refused_by_name(answer: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        score_media(Fake(answer=answer), ["a", "b", "c"], pictures(3))
    with pytest.raises(ValueError, match="got 2 prompts for 3 media"):
        score_media(Fake(), ["a", "b"], pictures(3))


def test_batches_change_no_score() -> None:
    prompts, media = [str(index) for index in range(7)], pictures(7)
    results = [score_media(Fake(), prompts, media, batch_size=size) for size in (1, 3, 64)]
    assert results[0] == results[1] == results[2]
    assert results[0]["first"] == [float(index) for index in range(7)]


def test_a_groupwise_reward_sees_whole_groups() -> None:
    reward = Fake(groupwise=True)
    found = score_media(reward, ["a", "b", "a", "b"], pictures(4), batch_size=1, groups=["1", "2", "3", "2"])
    assert reward.calls == [["a"], ["b", "b"], ["a"]] and found["first"] == [0.0, 1.0, 2.0, 3.0]


def test_a_groupwise_reward_sees_as_many_groups_as_a_batch_holds() -> None:
    """Groups of two in batches of five; one that has the prompt of another begins a batch, or the reward would compare the two."""
    reward, prompts = Fake(groupwise=True), ["a", "a", "b", "b", "c", "c", "c", "c", "c", "c", "d", "d"]
    groups = ["1", "1", "2", "2", "3", "3", "4", "4", "5", "5", "6", "6"]
    found = score_media(reward, prompts, pictures(12), batch_size=5, groups=groups)
    assert reward.calls == [["a", "a", "b", "b"], ["c", "c"], ["c", "c"], ["c", "c", "d", "d"]]
    assert found["first"] == [float(index) for index in range(12)]


@pytest.mark.parametrize("rule", ["standard", "win_fraction", "agreement"])
def test_groups_in_one_batch_are_compared_apart(rule: str) -> None:
    """The scores of an ensemble are those of each group in a call of its own."""
    rng = np.random.default_rng(0)
    media = [Image.from_pixels(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(12)]
    reward = open_reward("ensemble", {"of": ["sharpness", "contrast"], "rule": rule})
    groups = [str(index % 4) for index in range(12)]
    one, all_in_one = (
        score_media(reward, [f"prompt {group}" for group in groups], media, batch_size=size, groups=groups) for size in (1, 12)
    )
    assert one == all_in_one and len(set(one["score"])) > 3


@pytest.fixture
def two_models(tmp_path: Path, loader: Loader) -> Config:  # noqa: F811
    """Three blocks of two prompts, a shard of each for each model: every group spans two shards."""
    score = {"rewards": {"mine": {"reward": "contrast"}}, "batch_size": 4}
    config = fake_config(tmp_path, generate={"models": ["fake/model", "fake/other"]}, score=score)
    generate(config, progress=QUIET)
    return config


def test_a_groupwise_reward_sees_groups_that_span_shards(two_models: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = Fake(groupwise=True)
    monkeypatch.setattr(pipelines.score, "open_reward", lambda name, settings: reward)
    run(two_models, progress=QUIET)
    assert [len(call) for call in reward.calls] == [4] * 6
    assert len(read_scores(two_models.run / "scores")["mine.first"]) == 24


def test_groups_of_several_models_are_scored_block_by_block_through_a_kill(two_models: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second of three blocks: what the first answered is on disk, and is not asked again."""
    reward = Fake(groupwise=True)
    answer, asked = reward.__call__, []

    def killed(self: Fake, prompts: Sequence[str], media: Sequence[Image]) -> dict[str, list[float]]:
        asked.append(prompts[0])
        if len(asked) == 4:
            raise KeyboardInterrupt
        return answer(prompts, media)

    monkeypatch.setattr(pipelines.score, "open_reward", lambda name, settings: reward)
    with monkeypatch.context() as patch:
        patch.setattr(Fake, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            run(two_models, progress=QUIET)
    folder = two_models.run / "scores" / "mine"
    assert [path.name for path in folder.glob("shard-*")] == ["shard-00000.parquet"]
    reward.calls.clear()
    run(two_models, progress=QUIET)
    assert asked[:2] == ["prompt 0", "prompt 1"] and [call[0] for call in reward.calls] == [f"prompt {index}" for index in range(2, 6)]
    assert [path.name for path in sorted(folder.glob("shard-*"))] == [f"shard-0000{index}.parquet" for index in range(3)]
    means = {row.candidate_id: float(row.media.pixels().mean()) for row in read_candidates(two_models.run / "candidates")}
    assert read_scores(two_models.run / "scores")["mine.first"] == means


def test_media_of_one_block_at_most_are_in_memory(two_models: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each unit its two shards are opened with media, then its scores are written, and its candidates are gone before the next."""
    read, write, build = shards.read_file, shards.write_shard, Candidate.from_row
    events: list[str] = []
    built: list[weakref.ref[Candidate]] = []
    alive: list[int] = []

    def reading(path: Path, columns: Any = None, **settings: Any) -> Iterator[dict[str, Any]]:
        if columns is None:
            events.append(path.stem)
            alive.append(sum(each() is not None for each in built))
        return read(path, columns, **settings)

    def building(row: Any) -> Candidate:
        found = build(row)
        built.append(weakref.ref(found))
        return found

    monkeypatch.setattr(shards, "read_file", reading)
    monkeypatch.setattr(shards, "write_shard", lambda *arguments: (write(*arguments), events.append("scores"))[0])
    monkeypatch.setattr(Candidate, "from_row", building)
    monkeypatch.setattr(pipelines.score, "open_reward", lambda name, settings: Fake(groupwise=True))
    run(two_models, progress=QUIET)
    names = [[f"shard-0000{block}", f"shard-0000{block + 3}", "scores"] for block in range(3)]
    assert events[:9] == [name for block in names for name in block] and alive[:6] == [0, 4, 0, 4, 0, 4]


def test_shards_that_share_groups_are_one_unit(tmp_path: Path) -> None:
    groups = {"a": ["1", "2"], "b": ["3"], "c": ["4"], "d": ["2"], "e": ["4", "5"], "f": ["1"], "g": ["5", "3"]}
    paths = [tmp_path / name for name in groups]
    for path, own in zip(paths, groups.values(), strict=True):
        pq.write_table(pa.table({"group_id": own}), path)
    assert [[path.name for path in unit] for unit in pipelines.score._units_of_whole_groups(paths)] == [
        ["a", "d", "f"],
        ["b", "c", "e", "g"],
    ]


def test_rewards_may_be_a_list_of_names() -> None:
    assert Score(rewards=["sharpness", "contrast"]).rewards == REWARDS["rewards"]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown reward 'sharp'"):
        check_reward("sharp", {})


def test_each_reward_is_gone_before_the_next_is_loaded_and_after_the_last(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[Fake]] = []

    def load(name: str) -> Fake:
        assert [each() for each in loaded] == [None] * len(loaded)
        reward = Fake()
        reward.itself = reward  # a cycle, as modules and their hooks have
        loaded.append(weakref.ref(reward))
        return reward

    monkeypatch.setattr("reward_models.load_reward", load)
    run(config, progress=QUIET)
    assert [each() for each in loaded] == [None, None]


def test_memory_of_a_gpu_is_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        release_memory()
        assert emptied == [True] * there


def test_a_killed_run_resumes(config: Config, tmp_path: Path) -> None:
    whole = config.model_copy(update={"run": tmp_path / "whole"})
    generate(whole, progress=QUIET)
    run(whole, progress=QUIET)
    assert kill_once(config.run, ["score"], 0.3, "scores/sharpness/shard-*.parquet", 0.1)
    assert 1 <= len(list((config.run / "scores").glob("*/shard-*.parquet"))) < 6
    run(config, progress=QUIET)
    assert read_scores(config.run / "scores") == read_scores(whole.run / "scores")


def test_what_a_judge_was_asked_is_counted_through_a_failure_and_the_resumption(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 candidates in three shards of eight; the server refuses the twelfth question, which is in the second shard."""
    monkeypatch.setattr("diffalign.endpoint.time.sleep", lambda seconds: None)
    server = Server()
    try:
        server.answers = [*[rating] * 11, (401, {}, "no credit"), rating]
        settings = {"endpoint": {"url": server.url, "model": "m"}, "at_once": 1}
        judged = config.model_copy(update={"score": Score(rewards={"vlm_judge": settings})})
        with pytest.raises(ValueError, match=r"no answer about item 3 of a call: .*refused the question to 'm' .HTTP 401: no credit"):
            run(judged, progress=QUIET)
        folder = config.run / "scores" / "vlm_judge"
        assert [path.name for path in sorted(folder.glob("*.parquet"))] == ["shard-00000.parquet"]
        asked = json.loads((folder / "stage.json").read_text())["usage"]
        assert asked == {"questions": 11, "prompt_tokens": 7 * 11, "completion_tokens": 2 * 11}
        with (folder / "answers.jsonl").open("ab") as stream:
            stream.write(b'["a line that a kill')
        run(judged, progress=QUIET)
        total = json.loads((folder / "stage.json").read_text())["summary"]["usage"]
        assert total == {"questions": 24, "prompt_tokens": 7 * 24, "completion_tokens": 2 * 24}  # each of them once
        lines = (folder / "answers.jsonl").read_text().splitlines()
        assert len(lines) == len({json.loads(line)[0] for line in lines}) == 24
    finally:
        server.close()


def refused(*prompts: int) -> Callable[[dict[str, Any]], Any]:
    """The answer of a server that refuses questions about these prompts."""

    def answer(question: dict[str, Any]) -> Any:
        return (400, {}, "unsafe") if any(f"prompt {prompt}" in json.dumps(question) for prompt in prompts) else rating(question)

    return answer


def judged(config: Config, server: Server, **score: Any) -> Config:
    rewards = {"vlm_judge": {"endpoint": {"url": server.url, "model": "m"}}}
    return config.model_copy(update={"score": Score(rewards=rewards, **score), "pair": Pair(by="vlm_judge.alignment")})


def test_what_a_judge_refuses_has_no_score_up_to_a_limit_that_may_be_raised(
    config: Config, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two prompts of six, with four candidates each, in two of three shards."""
    server.answers = [refused(0, 3)]
    folder = config.run / "scores" / "vlm_judge"
    for asked in (16, 20):  # at the resumption what is written counts too, and what was answered is not asked about again
        with pytest.raises(
            ValueError,
            match=r"'vlm_judge' has no score for 8 items, more than max_unanswered=7; .*The first: vlm_judge got .*HTTP 400: unsafe",
        ):
            run(judged(config, server, max_unanswered=7), progress=QUIET)
        assert [path.name for path in folder.glob("*.parquet")] == ["shard-00000.parquet"] and len(server.asked) == asked
    run(judged(config, server), progress=Progress())
    summary = json.loads((folder / "stage.json").read_text())["summary"]
    assert summary["unscored"] == 8 and "HTTP 400: unsafe" in summary["unanswered"] and len(server.asked) == 32
    told = " ".join(capsys.readouterr().err.split())
    assert "8 of 24 candidates have no score by vlm_judge; the first: vlm_judge got no answer about item" in told
    scores = read_scores(config.run / "scores")["vlm_judge.alignment"]
    prompts = {row.candidate_id: row.prompt for row in read_candidates(config.run / "candidates")}
    assert {prompts[row] for row, value in scores.items() if math.isnan(value)} == {"prompt 0", "prompt 3"}
    assert summary["means"]["alignment"] == pytest.approx(np.nanmean(list(scores.values())))
    pair(judged(config, server), progress=Progress())
    assert "set aside, unscored: 8 candidates" in " ".join(capsys.readouterr().err.split())
    assert {row.prompt for row in read_preferences(config.run / "preferences")} == {f"prompt {index}" for index in (1, 2, 4, 5)}


def test_a_judge_that_answers_about_nothing_ends_the_run_however_few_the_items_are(config: Config, server: Server) -> None:
    server.answers = [refused(*range(6))]
    with pytest.raises(ValueError, match=r"'vlm_judge' has a score for none of 24 items; .*The first: vlm_judge got .*HTTP 400: unsafe"):
        run(judged(config, server, max_unanswered=100), progress=QUIET)
    assert not list((config.run / "scores" / "vlm_judge").glob("*.parquet"))
    server.answers = [rating]
    run(judged(config, server, max_unanswered=0), progress=QUIET)


def test_a_first_shard_without_any_score_is_no_end(config: Config, server: Server) -> None:
    server.answers = [refused(0, 1)]
    run(judged(config, server, max_unanswered=8), progress=QUIET)
    assert json.loads((config.run / "scores/vlm_judge/stage.json").read_text())["summary"]["unscored"] == 8


def test_nan_with_a_reason_is_no_score_and_infinity_never_is_one() -> None:
    reward = Fake(answer={"first": [math.nan], "second": [1.0]}, unanswered=["refused"])
    assert math.isnan(score_media(reward, ["a"], pictures(1), unscored=Unscored(1))["first"][0])
    with pytest.raises(ValueError, match=r"no score for 1 items, more than max_unanswered=0.*The first: refused"):
        score_media(reward, ["a"], pictures(1))
    reward.answer = {"first": [math.inf], "second": [1.0]}
    with pytest.raises(ValueError, match="first = inf"):
        score_media(reward, ["a"], pictures(1), unscored=Unscored(1))


@pytest.mark.long
def test_a_run_killed_at_random_moments_resumes(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    whole = fake_config(tmp_path / "whole", score=REWARDS)
    generate(whole, progress=QUIET)
    run(whole, progress=QUIET)
    draw = random.Random(1)
    for number in range(20):
        config = fake_config(tmp_path / str(number), score=REWARDS)
        kill_once(config.run, ["generate", "score"], 0.05, "candidates", draw.uniform(0, 0.8))
        generate(config, progress=QUIET)
        run(config, progress=QUIET)
        assert read_scores(config.run / "scores") == read_scores(whole.run / "scores")
