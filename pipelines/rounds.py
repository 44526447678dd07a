"""rounds: the road again and again, each round from the model that the last one ended with, on samples of its own.

RUN/round-1, round-2, … are whole runs; RUN/evaluation compares all of their models with the first base, and RUN/gallery shows it.
Iterative preference optimisation as in CRPO (Hung et al. 2024, arXiv:2412.21037): new prompts, samples, scores and pairs each round,
measured from the round's own beginning. A killed call goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffalign.model_source import holds_lora
from pipelines import ROAD
from pipelines.config import Config
from pipelines.evaluate import prompts_of, trained_on_of
from pipelines.progress import Progress
from pipelines.stage import stage_path

EACH = ("generate", "score", "pair", "encode", "train")  # the stages of a round


def run(config: Config, count: int, run_stage: Callable[[str, Config], None], *, progress: Progress) -> None:
    """Makes what is missing of `count` rounds, then the comparison.

    run_stage  runs one stage of a config
    ValueError for a config that lacks a stage of a round, and for a count below 1.
    """
    lacking = [stage for stage in EACH if getattr(config, stage) is None]
    if count < 1 or lacking:
        missing = f"the config has no section {', '.join(lacking)}" if lacking else f"{count} rounds are none"
        raise ValueError(f"{missing}; a round needs {', '.join(EACH)}, and there is 1 or more of them")
    if config.evaluate is not None:
        prompts_of(config, config.evaluate)  # refused now, and not after the rounds
    ends: list[Path] = []
    for number in range(1, count + 1):
        own = round_config(config, number, ends)
        progress.say(f"rounds: {number} of {count} in {own.run}", style="bold")
        for stage in EACH:
            run_stage(stage, own)
        ends.append(stage_path(own, "train") / "final")
    if config.evaluate is None:
        return
    trained_on = tuple(trained_on_of(config, config.evaluate))
    section = config.evaluate.model_copy(update={"models": models_of(ends), "trained_on": trained_on})
    last = config.model_copy(update={"evaluate": section, "train": None, "pair": None})
    for stage in ROAD:
        if stage in ("evaluate", "gallery") and getattr(last, stage) is not None:
            run_stage(stage, last)


def round_config(config: Config, number: int, ends: list[Path]) -> Config:
    """The run of round `number`, from 1: its folder, its seed, and the model that the round before ended with."""
    model = config.model
    for end in ends:
        model = model.after(end)
    update = {"run": config.run / f"round-{number}", "seed": config.seed + number - 1, "model": model, "evaluate": None, "gallery": None}
    return config.model_copy(update=update)


def models_of(ends: list[Path]) -> dict[str, str | tuple[str, ...]]:
    """What evaluate.models says of each round: its denoiser, or its LoRA with those that it was trained onto."""
    return {f"round-{number}": tuple(map(str, ends[:number])) if holds_lora(ends[0]) else str(end) for number, end in enumerate(ends, 1)}
