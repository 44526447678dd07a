"""score: candidates/ → scores/NAME/. Each reward has a folder of its own; adding one rewrites nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from diffalign.did_you_mean import did_you_mean
from pipelines.config import Section
from pipelines.memory import release_memory
from pipelines.pair import import_set
from pipelines.progress import Progress
from pipelines.stage import StageFolder, open_stage, require_stage
from pipelines.unanswered import MOST, Unscored

if TYPE_CHECKING:
    import pyarrow as pa

    from diffalign.data.modalities import Media
    from diffalign.data.records import Candidate
    from pipelines.config import Config
    from reward_models import Reward

ANSWERS = "answers.jsonl"  # of judges behind endpoints


def _by_name(value: Any) -> Any:
    """A list of names stands for rewards without settings, and so does null in the place of settings."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: {} for name in value}
    if isinstance(value, dict):
        return {name: {} if settings is None else settings for name, settings in value.items()}
    return value


def _known(value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    for name, settings in value.items():
        check_reward(name, settings)
    return value


Rewards = Annotated[dict[str, dict[str, Any]], BeforeValidator(_by_name), AfterValidator(_known)]


class Score(Section):
    """Rewards by name, each with its settings: `rewards: {shapes: {}, clip_score: {architecture: ViT-B-32, checkpoint: clip.safetensors}}`.

    The name is the folder in scores/ and, where the settings have no `reward`, the reward in REWARD_MODELS. With `reward` one model can be
    used twice: `{clip_b: {reward: clip_score, checkpoint: b.safetensors}, clip_l: {reward: clip_score, checkpoint: l.safetensors, …}}`.
    """

    rewards: Rewards = Field(min_length=1)
    batch_size: int = Field(default=64, ge=1)  # speed and memory only
    max_unanswered: int = Field(default=MOST, ge=0)  # candidates that a judge may leave without a score; pair sets them aside


def check_reward(name: str, settings: Mapping[str, Any]) -> None:
    """ValueError on a name that cannot be a folder, a reward that is not in the table, or a setting that it does not take."""
    from reward_models import REWARD_MODELS, settings_of

    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError(f"reward name {name!r} becomes a folder; use letters, digits and underscores only")
    reward = settings.get("reward", name)
    if reward not in REWARD_MODELS:
        raise ValueError(f"unknown reward {reward!r}{did_you_mean(reward, REWARD_MODELS)}; choose one of: {', '.join(REWARD_MODELS)}")
    if name in REWARD_MODELS and reward != name:
        raise ValueError(f"reward {name!r} is set to be {reward!r}, but the name of a reward stands for itself; choose another name for it")
    known = settings_of(reward)
    for key in settings:
        if key != "reward" and key not in known:
            raise ValueError(f"reward {name!r} has no setting {key!r}{did_you_mean(key, known)}; it takes: {', '.join(known) or 'none'}")


def declared_dimensions(name: str, settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The dimensions of an entry of `rewards`, without loading it; None where they are known only once it is loaded."""
    from reward_models import dimensions_of

    return dimensions_of(settings.get("reward", name), {key: value for key, value in settings.items() if key != "reward"})


def open_reward(name: str, settings: Mapping[str, Any]) -> Reward:
    """The reward of an entry of `rewards`, loaded anew: whoever opens it holds it alone."""
    from reward_models import load_reward

    return load_reward(settings.get("reward", name), **{key: value for key, value in settings.items() if key != "reward"})


def score_media(
    reward: Reward,
    prompts: Sequence[str],
    media: Sequence[Media],
    *,
    batch_size: int = 64,
    groups: Sequence[str] | None = None,
    once: bool = False,
    unscored: Unscored | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, list[float]]:
    """Scores of the media, one list per dimension, in order.

    groups    group_id of each item, for groupwise rewards, which see whole groups in a call; None: equal prompts are a group
    once      let go of what was decoded with its batch: for media that no other reward will score
    unscored  counts the items that have NaN because a judge did not answer; None: one is an error
    ValueError naming the reward: dimensions other than it declares, a list of another length, a score that is not a finite number, more
    items without an answer than may be.
    """
    unscored = unscored or Unscored(0)
    if not (len(prompts) == len(media) == len(prompts if groups is None else groups)):
        raise ValueError(
            f"reward {reward.name!r} got {len(prompts)} prompts for {len(media)} media; give one of each (and of groups) per item"
        )
    scores: dict[str, list[float]] = {dimension: [math.nan] * len(media) for dimension in reward.dimensions}
    batches = _batches_of_groups(prompts, groups or prompts, batch_size) if reward.groupwise else _batches(len(media), batch_size)
    for batch in batches:
        # A copy keeps what is decoded, and shares the stored bytes.
        found = reward([prompts[index] for index in batch], [copy(media[index]) if once else media[index] for index in batch])
        _check(reward, found, [prompts[index] for index in batch])
        unscored.add(reward, found)
        for dimension, values in scores.items():
            for index, value in zip(batch, found[dimension], strict=True):
                values[index] = float(value)
        advance(len(batch))
    return scores


def _batches(count: int, batch_size: int) -> list[list[int]]:
    return [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]


def _batches_of_groups(prompts: Sequence[str], groups: Sequence[str], batch_size: int) -> list[list[int]]:
    """Whole groups, as many as a batch holds and one at least; not two with equal prompts, which a reward would take for one."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    batches: list[list[int]] = []
    asked: set[str] = set()
    for places in members.values():
        own = {prompts[place] for place in places}
        if not batches or len(batches[-1]) + len(places) > batch_size or own & asked:
            batches.append([])
            asked = set()
        batches[-1] += places
        asked |= own
    return batches


def _check(reward: Reward, found: Any, prompts: list[str]) -> None:
    from reward_models.contract import unanswered_of

    if not isinstance(found, dict) or set(found) != set(reward.dimensions):
        got = ", ".join(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"reward {reward.name!r} gave {got}; it declares the dimensions {', '.join(reward.dimensions)}")
    answers_all = not unanswered_of(reward)
    for dimension, values in found.items():
        if len(values) != len(prompts):
            raise ValueError(
                f"reward {reward.name!r} gave {len(values)} scores of {dimension!r} for {len(prompts)} items; one each is needed"
            )
        for prompt, value in zip(prompts, values, strict=True):
            if math.isinf(value) or (math.isnan(value) and answers_all):
                raise ValueError(f"reward {reward.name!r} gave {dimension} = {value} for {prompt[:80]!r}; scores must be finite numbers")


def run(config: Config, *, redo: bool = False, progress: Progress) -> None:
    """Scores what each reward has not scored. One shard of scores per shard of candidates; per block of prompts for a groupwise reward."""
    score = config.score
    if score is None:
        raise ValueError("the config has no section score; add one, for example score: {rewards: {sharpness: {}}}")
    import_set(config, redo=redo, progress=progress)
    folder = require_stage(config, "score", "generate")
    for name, settings in score.rewards.items():
        if _score_with(config, folder, name, settings, score, redo=redo, progress=progress):
            release_memory()  # one reward at a time, and none beside the training that follows


def _score_with(
    config: Config, candidates: Path, name: str, settings: Mapping[str, Any], score: Score, *, redo: bool, progress: Progress
) -> bool:
    """Whether a reward was opened: where all scores are there, none is."""
    from diffalign.data.shards import shard_paths

    recorded = {"reward": settings.get("reward", name), **settings}
    with open_stage(config, f"score/{name}", settings=recorded, inputs=("generate",), outputs=("shard-*.parquet",), redo=redo) as stage:
        shards = shard_paths(candidates)
        if stage.is_complete:
            progress.say(f"score: {name} is in {stage.path}; nothing to do")
            return False
        reward = open_reward(name, settings)
        keep_revision(stage, name, reward.revision)
        units = _units_of_whole_groups(shards) if reward.groupwise else [[path] for path in shards]
        counts = [sum(_rows(path) for path in unit) for unit in units]
        missing = stage.missing(len(units))
        total = sum(counts)
        unscored = Unscored(score.max_unanswered, stage.path.glob("shard-*.parquet"))
        with progress.bar(f"score {name}", total, done=total - sum(counts[index] for index in missing)) as advance:
            for index in missing:
                with _usage_is_kept(stage, reward):
                    # No name for the rows: the media of this unit would stay in memory while those of the next are read.
                    write_scores(
                        stage.shard(index), reward, _read(units[index]), batch_size=score.batch_size, once=True, unscored=unscored,
                        advance=advance,
                    )  # fmt: skip
        unscored.require_one(reward, stage.path.glob("shard-*.parquet"))
        usage, unanswered = stage.record.get("usage", {}), stage.record.get("unanswered")
        told = {"unscored": unscored.count, "unanswered": unanswered} if unscored.count else {}
        stage.finish(_summary(stage.path, reward, total) | ({"usage": usage} if usage else {}) | told)
    if usage:
        progress.say(
            f"score: {name} asked {usage['questions']} questions of {usage['prompt_tokens']} tokens, "
            f"answers of {usage['completion_tokens']} tokens"
        )
    if unscored.count:
        progress.say(f"score: {unscored.count} of {total} candidates have no score by {name}; the first: {unanswered}", style="yellow")
    means = ", ".join(f"{dimension} {mean:.4g}" for dimension, mean in stage.summary["means"].items())
    progress.say(f"score: {total} candidates by {name}; means: {means}")
    return True


def keep_revision(stage: StageFolder, name: str, revision: str) -> None:
    """Records the revision of a reward before its first score is written; ValueError where scores of another one are there."""
    recorded = stage.record.setdefault("revisions", {})
    if name not in recorded:
        recorded[name] = revision
        stage.save_record()
    if recorded[name] != revision:
        raise ValueError(
            f"{stage.path} was begun with revision {recorded[name]!r} of reward {name!r}, installed is {revision!r}; "
            f"scores of two revisions are never mixed: diffalign {stage.name.partition('/')[0]} CONFIG --redo"
        )


@contextmanager
def _usage_is_kept(stage: StageFolder, reward: Reward) -> Iterator[None]:
    """Adds what an endpoint was asked meanwhile, and the first reason why it did not answer, to the stage's record, and keeps its answers
    in the stage's folder: what is paid for is counted, and asked once, whether or not it ends well."""
    from diffalign.endpoint import Answers
    from reward_models.contract import accounts_of, unanswered_of

    accounts = accounts_of(reward)
    answers = Answers(stage.path / ANSWERS) if accounts else None
    for account in accounts:
        account.answers = answers
    before = [account.counts() for account in accounts]
    try:
        yield
    finally:
        for account, earlier in zip(accounts, before, strict=True):
            recorded = stage.record.setdefault("usage", dict.fromkeys(earlier, 0))
            for key, value in account.counts().items():
                recorded[key] += value - earlier[key]
        for reason in unanswered_of(reward)[:1]:
            stage.record.setdefault("unanswered", reason)
        if accounts or "unanswered" in stage.record:
            stage.save_record()


def write_scores(
    path: Path,
    reward: Reward,
    rows: Sequence[Candidate],
    *,
    batch_size: int,
    once: bool = False,
    unscored: Unscored | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Scores the rows and writes their shard, a line each in their order; `once` as score_media has it."""
    from diffalign.data.shards import write_shard

    prompts, media, groups = [row.prompt for row in rows], [row.media for row in rows], [row.group_id for row in rows]
    found = score_media(reward, prompts, media, batch_size=batch_size, groups=groups, once=once, unscored=unscored, advance=advance)
    table = [
        {"candidate_id": row.candidate_id, **{dimension: found[dimension][place] for dimension in reward.dimensions}}
        for place, row in enumerate(rows)
    ]
    write_shard(path, table, score_schema(reward.dimensions))


def score_schema(dimensions: Sequence[str]) -> pa.Schema:
    """The columns of scores/NAME: candidate_id and one float per dimension, NaN where a judge did not answer."""
    import pyarrow as pa

    columns = [pa.field("candidate_id", pa.string(), nullable=False)]
    return pa.schema(columns + [pa.field(dimension, pa.float64(), nullable=False) for dimension in dimensions])


def _summary(path: Path, reward: Reward, total: int) -> dict[str, Any]:
    from diffalign.data.shards import read_rows

    sums, counts = dict.fromkeys(reward.dimensions, 0.0), dict.fromkeys(reward.dimensions, 0)
    for row in read_rows(path):
        for dimension in sums:
            if not math.isnan(row[dimension]):
                sums[dimension] += row[dimension]
                counts[dimension] += 1
    means = {dimension: value / counts[dimension] for dimension, value in sums.items() if counts[dimension]}
    return {"candidates": total, "revision": reward.revision, "means": means}


def _units_of_whole_groups(shards: list[Path]) -> list[list[Path]]:
    """The least sets of shards that no group spans, in order of their first: of several models, each block of prompts over all models."""
    from diffalign.data.shards import read_file

    places = {path: place for place, path in enumerate(shards)}
    units: dict[Path, list[Path]] = {}
    holder: dict[str, Path] = {}
    for path in shards:
        units[path] = [path]
        for row in read_file(path, ["group_id"]):
            first = holder.setdefault(row["group_id"], path)
            if units[first] is not units[path]:
                joined = sorted([*units[first], *units[path]], key=places.__getitem__)
                units.update(dict.fromkeys(joined, joined))
    return [unit for path, unit in units.items() if unit[0] == path]


def _read(paths: list[Path]) -> list[Candidate]:
    from diffalign.data.records import Candidate
    from diffalign.data.shards import read_file

    return [Candidate.from_row(row) for path in paths for row in read_file(path)]


def _rows(path: Path) -> int:
    from diffalign.data.shards import open_parquet

    with open_parquet(path) as file:
        return file.metadata.num_rows
