"""gallery: the evaluation, the pairs and the training curves as a static page that opens from disk (diffalign/gallery)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from pipelines.config import Config, Section, settings_of
from pipelines.evaluate import BASE
from pipelines.model import shown_size
from pipelines.progress import Progress
from pipelines.report import read_metrics, read_report
from pipelines.stage import is_current, open_stage, stage_path

if TYPE_CHECKING:
    from diffalign.data.candidate_files import CandidateFiles
    from diffalign.data.modalities import Media
    from diffalign.data.records import Candidate, Preference
    from diffalign.gallery import Comparison, Curve, PairRow, Sample

SATURATION_GAP = 0.1  # of HSV saturation, 0 to 1: a pair that far apart may teach colourfulness
LOUDNESS_GAP = 6.0  # LU: of two sounds that far apart the louder one may be preferred for that alone
SHOWN_CURVES = ("loss", "rewards/accuracies", "rewards/margins", "win_adv", "lose_adv", "gradient_factor", "distance", "grad_norm", "lr")


class Gallery(Section):
    """Settings of the stage."""

    thumbnail_size: int = Field(default=256, ge=16, le=4096)  # pixels of the longer side
    max_pairs: int = Field(default=2000, ge=0)  # of the pair inspector: the first so many
    title: str | None = None  # default: the model and the objective


def run(config: Config, *, redo: bool = False, progress: Progress) -> None:
    """Writes RUN/gallery from whatever of evaluation, pairs and training this road has."""
    from diffalign.data.records import read_scores
    from diffalign.gallery.write import write_gallery

    section = config.gallery
    if section is None:
        raise ValueError("the config has no section gallery; add one, for example gallery: {}")
    rewards = rewards_to_show(config)
    inputs = tuple(stage for stage in ("pair", "train", "evaluate") if getattr(config, stage) is not None)
    if config.pair is not None:
        inputs = ("generate", *(f"score/{reward}" for reward in rewards), *inputs)
    # It shows what is elsewhere, so nothing is lost where a change of any kind writes it anew.
    with open_stage(
        config, "gallery", settings=settings_of(section), inputs=inputs, outdated=lambda key, before, now: (), redo=redo
    ) as stage:
        index = stage.path / "index.html"
        if stage.is_complete and index.is_file():
            progress.say(f"gallery: {index}; nothing to do")
            return
        evaluation = stage_path(config, "evaluate") if config.evaluate is not None else None
        report = read_report(evaluation) if evaluation is not None else None
        preferences = pairs_to_show(stage_path(config, "pair"), section.max_pairs) if config.pair is not None else []
        samples = report["prompts"] * report["samples_per_prompt"] * (1 + len(report["models"])) if report is not None else 0
        with progress.bar("gallery", samples + 2 * len(preferences)) as advance:
            write_gallery(
                stage.path,
                comparison_of(evaluation, report) if evaluation is not None and report is not None else None,
                pair_rows(preferences, stage_path(config, "generate"), read_scores(stage_path(config, "score"), rewards)),
                curves_of(stage_path(config, "train") / "metrics.jsonl") if config.train is not None else (),
                title=section.title or title_of(config),
                roles=roles_of(report) if report is not None else {},
                thumbnail_size=section.thumbnail_size,
                progress=_each(advance),
            )
        stage.finish({"index": index.name, "samples": samples, "pairs": len(preferences)})
    progress.say(f"gallery: open {index}")


def rewards_to_show(config: Config) -> list[str]:
    """The rewards of the config that have scored the candidates as they are now. An id says nothing of it: another seed gives the same."""
    if config.pair is None or config.score is None:
        return []
    return [reward for reward in config.score.rewards if is_current(config, f"score/{reward}")]


def title_of(config: Config) -> str:
    """What the page is called where the config does not say."""
    objective = getattr(config.train, "objective", None)
    name = objective.get("name") if isinstance(objective, Mapping) else objective
    return f"{short_source(config.model.source)}: {name}" if name else short_source(config.model.source)


def short_source(source: str) -> str:
    """A hub id as it is, of a path from the root its last two folders."""
    return "/".join(Path(source).parts[-2:]) if Path(source).is_absolute() else source


def roles_of(report: Mapping[str, Any]) -> dict[str, str]:
    """What each score has to do with the training (report.Change)."""
    return {score: change["role"] for model in report["models"].values() for score, change in model["scores"].items()}


def comparison_of(evaluation: Path, report: Mapping[str, Any]) -> Comparison:
    """Rows of the samples of base and models: one per prompt and seed, read one shard row at a time."""
    from diffalign.gallery import Column, Comparison, SummaryLine

    names = list(report["models"])
    summary = [
        SummaryLine(score, change["base"], change["aligned"], change["change"], change["low"], change["high"], name, change["win_rate"])
        for name in names
        for score, change in report["models"][name]["scores"].items()
    ]
    settings = {key: _shown(value) for key, value in report["settings"].items() if key != "model" and value not in ("", None, [])}
    return Comparison(
        columns=[Column(BASE, short_source(str(report["settings"].get("model", "")))), *(Column(name) for name in names)],
        rows=comparison_rows(evaluation, [BASE, *names]),
        settings=settings,
        summary=summary,
    )


def comparison_rows(evaluation: Path, names: list[str]) -> Iterator[Any]:
    """Samples of all models side by side. ValueError where they are not the same prompts and seeds in the same order."""
    from diffalign.data.records import read_candidates, read_scores
    from diffalign.gallery import Row

    scores = {name: by_candidate(read_scores(evaluation / name / "scores")) for name in names}
    for candidates in zip(*(read_candidates(evaluation / name) for name in names), strict=True):
        base = candidates[0]
        for name, candidate in zip(names, candidates, strict=True):
            same = (candidate.group_id, candidate.prompt, candidate.seed) == (base.group_id, base.prompt, base.seed)
            if not same or candidate.media.columns != base.media.columns:
                raise ValueError(
                    f"sample {candidate.candidate_id!r} of {name!r} and {base.candidate_id!r} of the base differ in prompt, seed or size: "
                    "they are no comparison; evaluate again with `diffalign evaluate CONFIG --redo`"
                )
        yield Row(
            prompt=base.prompt,
            seed=base.seed or 0,
            samples=tuple(sample_of(candidate, scores[name]) for name, candidate in zip(names, candidates, strict=True)),
            tags=base.tags,
            condition=base.condition,
        )


def sample_of(candidate: Candidate, scores: Mapping[str, Mapping[str, float]], key: str = "") -> Sample:
    """A candidate with its scores, of the kind that its medium is; key as of a Sample."""
    from diffalign.data.modalities import modality_of
    from diffalign.gallery import Sample

    return Sample(candidate.media, scores.get(candidate.candidate_id, {}), candidate.candidate_id, modality_of(candidate.media), key)


def by_candidate(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """ "reward.dimension" → id → value, turned around: id → "reward.dimension" → value."""
    turned: dict[str, dict[str, float]] = {}
    for name, values in scores.items():
        for candidate, value in values.items():
            turned.setdefault(candidate, {})[name] = value
    return turned


def pairs_to_show(folder: Path, limit: int) -> list[Preference]:
    """The first `limit` preferences that have a better and a worse sample."""
    from diffalign.data.records import read_preferences

    shown = [preference for preference in read_preferences(folder) if _sides(preference) is not None]
    return shown[:limit]


def _sides(preference: Preference) -> tuple[str, str] | None:
    """(chosen, rejected): first and last of a pair or list, a wanted and an unwanted sample of labelled ones; None without both."""
    if preference.labels is None:
        return preference.samples[0], preference.samples[-1]
    wanted = [sample for sample, label in zip(preference.samples, preference.labels, strict=True) if label == 1]
    unwanted = [sample for sample, label in zip(preference.samples, preference.labels, strict=True) if label == 0]
    return (wanted[0], unwanted[0]) if wanted and unwanted else None


def pair_rows(preferences: Iterable[Preference], candidates: Path, scores: Mapping[str, Mapping[str, float]]) -> Iterator[PairRow]:
    """Both sides of each preference with scores and flags, in the order of the preferences."""
    from diffalign.data.candidate_files import CandidateFiles
    from diffalign.data.records import STRENGTH
    from diffalign.gallery import PairRow

    preferences = list(preferences)
    if not preferences:
        return
    files = CandidateFiles(candidates)
    _check_there(files, {sample for preference in preferences for sample in _sides(preference) or ()})
    of = by_candidate(scores)
    for preference in preferences:
        sides = _sides(preference)
        if sides is None:
            continue
        chosen, rejected = files[sides[0]], files[sides[1]]
        yield PairRow(
            prompt=preference.prompt,
            chosen=sample_of(chosen, of, sides[0]),  # a candidate may stand in several pairs
            rejected=sample_of(rejected, of, sides[1]),
            gap=gap_of(preference, sides),
            flags=flags_of(preference, chosen, rejected),
            tags={name: value for name, value in chosen.tags.items() if name != STRENGTH},  # of as many values as groups
            segments=preference.segment_labels or (),
            context=preference.context or "",
            condition=chosen.condition,
        )


def _check_there(files: CandidateFiles, wanted: set[str]) -> None:
    missing = sorted(wanted.difference(files))
    if missing:
        raise ValueError(
            f"{len(missing)} candidates of the preferences are not in {files.folder}, the first: {missing[0]!r}; "
            "make the pairs again with `diffalign pair CONFIG --redo`"
        )


def gap_of(preference: Preference, sides: tuple[str, str]) -> float:
    """Score of chosen − rejected, or the win probability's distance from a tie; NaN where the preference has neither."""
    if preference.scores is not None:
        scores = dict(zip(preference.samples, preference.scores, strict=True))
        return scores[sides[0]] - scores[sides[1]]
    return preference.win_probability - 0.5 if preference.win_probability is not None else float("nan")


def flags_of(preference: Preference, chosen: Candidate, rejected: Candidate) -> list[str]:
    """What a reader should look at first: tie, identical, size mismatch, a gap that their modality has (GAPS), different models."""
    from diffalign.data.modalities import modality_of

    flags = []
    is_even = preference.win_probability == 0.5 or gap_of(preference, (chosen.candidate_id, rejected.candidate_id)) == 0
    if is_even and not any(preference.segment_labels or ()):  # a span that is preferred is trained on
        flags.append("tie")
    if chosen.media.identity() == rejected.media.identity():  # first, as it keeps what it decodes, which is shown next
        flags.append("identical")
    elif chosen.media.columns != rejected.media.columns:
        flags.append("size mismatch")
    kind = modality_of(chosen.media)
    if kind in GAPS and modality_of(rejected.media) == kind:
        flag, measure, limit = GAPS[kind]
        # Of two silent sounds the difference is not a number, and no gap.
        if abs(measure(chosen.media) - measure(rejected.media)) > limit:
            flags.append(flag)
    if chosen.model != rejected.model:
        flags.append("different models")
    return flags


def _saturation(medium: Media) -> float:
    from reward_models.saturation import saturation

    return saturation(cast("Any", medium).pixels())


def _loudness(medium: Media) -> float:
    from diffalign.loudness import integrated_lufs as integrated

    sound = cast("Any", medium)
    return integrated(sound.waveform(), sound.sample_rate_hz)


# By modality: the flag of a pair whose sides are further apart than the limit in what two media of it should share.
GAPS: dict[str, tuple[str, Callable[[Media], float], float]] = {
    "image": ("saturation gap", _saturation, SATURATION_GAP),
    "audio": ("loudness gap", _loudness, LOUDNESS_GAP),
}


def curves_of(metrics: Path) -> list[Curve]:
    """SHOWN_CURVES of a metrics.jsonl, those that were logged; win_adv and lose_adv share a chart."""
    from diffalign.gallery import Curve

    series = read_metrics(metrics)
    groups = {"win_adv": "advantage", "lose_adv": "advantage"}
    return [Curve(name, series[name], groups.get(name, name)) for name in SHOWN_CURVES if name in series]


def _each(advance: Callable[[int], None]) -> Callable[[int], None]:
    """write_gallery reports how many are written in all; a bar wants how many more."""
    before = 0

    def report(written: int) -> None:
        nonlocal before
        advance(written - before)
        before = written

    return report


def _shown(value: Any) -> str:
    """A setting as people write it; a size, or several of them, width first."""
    if not isinstance(value, list):
        return str(value)
    return ", ".join(map(shown_size, value if isinstance(value[0], list) else [value]))
