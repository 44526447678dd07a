"""The workflows: one file per stage, and the `diffalign` command. The only package in which diffalign and reward_models meet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One line of STAGES: the subfolder of the run that the stage owns, and what it does."""

    folder: str
    does: str


# Name = file in pipelines/ = subcommand = section of the config; the section's class is the name with a capital.
# In the order of the road; `pretrain` makes a base model and stands beside the road.
STAGES: dict[str, Stage] = {
    "generate": Stage("candidates", "sample candidates for every prompt, with recorded seeds"),
    "score": Stage("scores", "score the candidates with any number of reward models"),
    "pair": Stage("preferences", "turn scores, or a set that exists, into preferences"),
    "encode": Stage("latents", "encode candidates and prompts once, for training"),
    "train": Stage("train", "train the policy on the preferences"),
    "evaluate": Stage("evaluation", "compare base and aligned on the same prompts and seeds"),
    "gallery": Stage("gallery", "write a static page that shows the comparison"),
    "pretrain": Stage("pretrain", "train a miniature base model from scratch"),
}
ROAD: tuple[str, ...] = tuple(name for name in STAGES if name != "pretrain")
