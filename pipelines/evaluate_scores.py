"""The scores of evaluate: evaluation/NAME/scores/REWARD/, each reward loaded once for the samples of all models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.memory import release_memory
from pipelines.progress import Progress
from pipelines.score import keep_revision, open_reward, write_scores
from pipelines.stage import StageFolder
from pipelines.unanswered import Unscored

if TYPE_CHECKING:
    import numpy as np

    from pipelines.evaluate import Evaluate
    from pipelines.prompts import Prompt
    from reward_models import Reward


def score_samples(
    section: Evaluate, stage: StageFolder, names: Sequence[str], rewards: Mapping[str, Mapping[str, Any]], progress: Progress
) -> None:
    """Writes the scores of the models' samples that are missing, and says how many a judge left without; then the rewards are released."""
    opened: dict[str, Reward] = {}
    unscored: dict[str, Unscored] = {}
    for name in names:
        _score_model(section, stage, name, rewards, opened, unscored, progress)
    for reward, counted in unscored.items():
        counted.require_one(opened[reward], stage.path.glob(f"*/scores/{reward}/shard-*.parquet"))
        if counted.count:
            progress.say(f"evaluate: {counted.count} samples have no score by {reward}, which did not answer about them", style="yellow")
    opened.clear()
    release_memory()


def _score_model(
    section: Evaluate, stage: StageFolder, name: str, rewards: Mapping[str, Mapping[str, Any]], opened: dict[str, Reward],
    unscored: dict[str, Unscored], progress: Progress,
) -> None:  # fmt: skip
    from diffalign.data.records import Candidate
    from diffalign.data.shards import read_file, shard_paths

    shards = shard_paths(stage.path / name)
    work = [(reward, path, stage.path / name / "scores" / reward / path.name) for path in shards for reward in rewards]
    missing = [(reward, path, target) for reward, path, target in work if not target.is_file()]
    with progress.bar(f"score {name}", len(work), done=len(work) - len(missing)) as advance:
        for path in shards:
            due = [(reward, target) for reward, source, target in missing if source == path]
            rows = [Candidate.from_row(row) for row in read_file(path)] if due else []
            for reward_name, target in due:
                if reward_name not in opened:
                    opened[reward_name] = open_reward(reward_name, rewards[reward_name])
                    keep_revision(stage, reward_name, opened[reward_name].revision)
                    unscored[reward_name] = Unscored(section.max_unanswered, stage.path.glob(f"*/scores/{reward_name}/shard-*.parquet"))
                write_scores(target, opened[reward_name], rows, batch_size=section.batch_size, unscored=unscored[reward_name])
                advance(1)


def read_scored(folder: Path, name: str, prompts: Sequence[Prompt], samples_per_prompt: int) -> dict[str, np.ndarray]:
    """Scores of a model as "reward.dimension" → (P, S), rows in the order of the prompts."""
    import numpy as np

    from diffalign.data.records import read_scores

    ids = [f"{prompt.group_id}-{k:02d}-{name}" for prompt in prompts for k in range(samples_per_prompt)]
    return {
        score: np.array([values.get(candidate, np.nan) for candidate in ids], np.float64).reshape(len(prompts), samples_per_prompt)
        for score, values in read_scores(folder / name / "scores").items()
    }
