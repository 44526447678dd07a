"""pair: scores, or the judgements of a set that exists, → preferences/.

A set that exists enters here: `pair: {source: {importer: pickapic, path: …}}` copies its media to candidates/ and its judgements beside
them, and from there on the road is the same. With rule `imported` its own judgements become the preferences; with any other rule the
rewards of the section score rank its candidates anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from hashlib import sha256
from os import fsencode
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from diffalign.data.pairing_settings import PairingSettings, RuleName
from pipelines.config import Section, files_fingerprint, settings_of
from pipelines.progress import Progress
from pipelines.stage import is_changed, is_current, open_stage, stage_path, write_atomically

if TYPE_CHECKING:
    from diffalign.data.importers import ImportedGroup, ImportReport
    from diffalign.data.pairing import PairingSummary
    from diffalign.data.source_shortcut import SourceShortcut
    from pipelines.config import Config
    from pipelines.score import Score

PREFERENCES_PER_SHARD = 10_000
BROKEN = "broken.jsonl"  # {"where": file and row, "reason": …}, beside the candidates
TOLD = ("max_broken", "read", "kept", "tied", "skipped", "broken", "reasons", "modality")  # of the report of an import
KEPT_BY = {  # filter → why it drops, and the setting that does not
    "same_source": "of different models; pair.same_source=false keeps them",
    "same_size": "of different sizes, or sounds of different lengths; pair.same_size=false keeps them, and encode.size makes them one",
}
BAR = 40  # characters of the longest bar of the histogram


class Source(Section):
    """A preference set that exists: the importer, where the set is, and the importer's own settings."""

    model_config = ConfigDict(extra="allow")

    importer: str
    path: str
    groups_per_shard: int = Field(default=256, ge=1)

    @model_validator(mode="after")
    def _is_known(self) -> Source:
        from diffalign.data.importers import build_import

        build_import(self.importer, self.path, **self.settings)  # reads nothing yet; refuses unknown names and settings
        return self

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Pair(Section):
    """How candidates become preferences; what each key means stands in diffalign/data/pairing_settings.py, and the defaults too."""

    source: Source | None = None
    rule: RuleName = PairingSettings.rule
    by: str | Mapping[str, float] | None = PairingSettings.by
    minimum_gap: float = PairingSettings.minimum_gap
    maximum_gap: float | None = PairingSettings.maximum_gap
    minimum_winner: float | None = PairingSettings.minimum_winner
    agreement: tuple[str, ...] = PairingSettings.agreement
    thresholds: dict[str, dict[str, float]] = Field(default={}, exclude_if=lambda thresholds: not thresholds)
    strategies: tuple[str, ...] = Field(default=PairingSettings.strategies, exclude_if=lambda strategies: not strategies)
    spans: tuple[str, ...] = Field(default=PairingSettings.spans, exclude_if=lambda spans: not spans)
    span_margin: float = Field(default=PairingSettings.span_margin, exclude_if=lambda margin: margin == PairingSettings.span_margin)
    minimum_judged: float = Field(default=PairingSettings.minimum_judged, exclude_if=lambda share: share == PairingSettings.minimum_judged)
    length: int | None = PairingSettings.length
    ties: Literal["drop", "keep"] = PairingSettings.ties
    deduplicate: bool = PairingSettings.deduplicate
    same_source: bool = PairingSettings.same_source
    same_size: bool = PairingSettings.same_size
    threshold: float | None = PairingSettings.threshold
    top: int | None = PairingSettings.top
    positive_share: float | None = PairingSettings.positive_share
    swap_labels: bool = PairingSettings.swap_labels
    flip_share: float = Field(default=PairingSettings.flip_share, exclude_if=lambda share: share == 0)
    flip_spans: float = Field(default=PairingSettings.flip_spans, exclude_if=lambda share: share == 0)
    seed: int | None = None  # of rule "random", of positive_share, flip_share and flip_spans; default: the run's seed

    @model_validator(mode="before")
    @classmethod
    def _a_set_brings_its_order(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("source") is not None and not value.get("by"):
            return {"rule": "imported", **value}
        return value

    @model_validator(mode="after")
    def _settings_are_valid(self) -> Pair:
        self.pairing(0)
        if self.rule == "imported" and self.source is None:
            raise ValueError("rule 'imported' needs a set: source: {importer: …, path: …}; or choose a rule that ranks by a score")
        return self

    def pairing(self, seed: int) -> PairingSettings:
        """The settings that pair_groups takes; `seed` is the run's."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(PairingSettings)}
        values["seed"] = seed if self.seed is None else self.seed
        return PairingSettings(**values)

    @property
    def scores(self) -> tuple[str, ...]:
        """The names "reward.dimension" of the scores that choose the pairs: that rank, must agree, keep thresholds, or judge spans."""
        return tuple(dict.fromkeys((*self.pairing(0).weights, *self.agreement, *self.thresholds, *self.spans)))

    @property
    def rewards(self) -> tuple[str, ...]:
        """The names of the rewards whose scores are read."""
        return tuple(dict.fromkeys(name.partition(".")[0] for name in self.scores))

    @property
    def controls(self) -> list[str]:
        """The controls that turn samples around, as they are set."""
        said = {
            "pair.swap_labels=true": self.swap_labels,
            f"pair.flip_share={self.flip_share:g}": self.flip_share > 0,
            "pair.rule=random": self.rule == "random",
        }
        return [words for words, is_on in said.items() if is_on]

    def check_scores(self, score: Score) -> None:
        """ValueError where a score that pairing reads is not among those that the config's section score makes."""
        from pipelines.score import declared_dimensions

        for name in self.scores:
            reward, _, dimension = name.partition(".")
            if reward not in score.rewards:
                raise ValueError(f"pair reads {name!r}, but score.rewards has no {reward!r}; it has: {', '.join(score.rewards)}")
            known = declared_dimensions(reward, score.rewards[reward])
            if not dimension or (known is not None and dimension not in known):
                choices = ", ".join(f"{reward}.{entry}" for entry in known or ("DIMENSION",))
                raise ValueError(f"pair reads {name!r}, which reward {reward!r} does not give; choose one of: {choices}")

    def check_objective(self, name: str) -> None:
        """ValueError where what pairing makes is not what an objective trains on: to be known before anything is generated."""
        from diffalign.data.pairing import RULES
        from diffalign.objectives import OBJECTIVES
        from diffalign.training.groups import KINDS

        needs, kind = OBJECTIVES[name], RULES[self.rule].kind
        if kind is None:
            return
        triples = kind == "list" and needs.triples
        if kind not in KINDS[needs.rows] and not triples:
            fitting = [rule for rule, each in RULES.items() if each.kind in KINDS[needs.rows]]
            raise ValueError(
                f"pair.rule {self.rule!r} makes rows of kind {kind!r}, and objective {name!r} trains on {needs.rows}; choose a rule of: "
                f"{', '.join(fitting)}, or another objective"
            )
        if needs.rows == "segments" and not self.spans:
            raise ValueError(f"objective {name!r} trains on the labels of spans, and pair.spans is empty; name a score for each span")
        if self.ties == "keep" and (kind == "pair" or triples) and not any("win_probability" in each for each in needs.reads):
            raise ValueError(
                f"pair.ties 'keep' makes ties, and objective {name!r} would count each as a win of its first sample; set pair.ties=drop, "
                f"or choose an objective that reads the probability: smpo"
            )


def run(config: Config, *, redo: bool = False, progress: Progress) -> None:
    """Writes preferences/, after candidates/ where the set is imported."""
    from diffalign.data.pairing import group_candidates, pair_groups
    from diffalign.data.records import Preference, read_candidates, read_scores, write_preferences
    from diffalign.data.shards import read_file

    pair = config.pair
    if pair is None:
        raise ValueError("the config has no section pair; add one, for example pair: {rule: best_vs_worst, by: shapes.score}")
    imported = import_set(config, redo=redo, progress=progress)
    settings = pair.pairing(config.seed)
    inputs = ("generate", *(f"score/{reward}" for reward in pair.rewards))
    with open_stage(
        config, "pair", settings={**settings_of(pair, without=("source",)), "seed": settings.seed}, inputs=inputs, redo=redo
    ) as stage:
        if stage.is_complete:
            progress.say(f"pair: {stage.summary['pairs_kept']} preferences are in {stage.path}; nothing to do")
            return
        for reward in pair.rewards:
            if not is_current(config, f"score/{reward}"):
                scores, candidates = stage_path(config, f"score/{reward}"), stage_path(config, "generate")
                raise ValueError(f"{scores} was made from other candidates than are in {candidates}; first: diffalign score CONFIG --redo")
        judgements = (Preference.from_row(row) for path in imported for row in read_file(path))
        groups = group_candidates(
            read_candidates(stage_path(config, "generate")),
            read_scores(stage_path(config, "score"), pair.rewards),
            judgements if pair.rule == "imported" else (),
            identities=pair.deduplicate,
        )
        result = pair_groups(groups, settings)
        shards = [
            result.preferences[start : start + PREFERENCES_PER_SHARD] for start in range(0, len(result.preferences), PREFERENCES_PER_SHARD)
        ]
        for index in stage.missing(len(shards)):
            write_preferences(stage.shard(index), shards[index])
        stage.finish(asdict(result.summary))
    for line in describe(result.summary):
        progress.say(line)
    for name in pair.strategies:
        if name not in result.summary.strategies:
            there = ", ".join(repr(each) for each in result.summary.strategies)
            progress.say(f"  pair.strategies has {name!r}, and no candidate is of it; there are {there}", style="yellow")
    if result.summary.shortcut is not None and result.summary.shortcut.is_beyond_chance:
        progress.say(warn_of_sources(result.summary.shortcut), style="yellow")


def import_set(config: Config, *, redo: bool = False, progress: Progress) -> list[Path]:
    """Makes candidates/ of the set in `pair.source`, where it is not made yet; the files of its judgements. [] where there is no source.

    redo   read the set again where it, or its settings, changed. An unchanged set is not read again: that can take hours.
    """
    from diffalign.data.conditions import has_conditions
    from diffalign.data.importers import build_import
    from diffalign.data.records import write_candidates, write_preferences

    pair = config.pair
    if pair is None or pair.source is None:
        return []
    if config.generate is not None:
        raise ValueError("the config has both generate and pair.source, and candidates/ can hold one of them; remove one")
    source = pair.source
    settings = {
        "import": {**settings_of(source, without=("max_broken",)), "files": set_fingerprint(source.path)}
    }  # a limit makes no row another
    again = redo and is_changed(config, "generate", settings)
    # The list of broken rows is no output: what a failed import left of it must not hold the next one to its settings.
    with open_stage(config, "generate", settings=settings, outputs=("shard-*.parquet", "judgements-*.parquet"), redo=again) as stage:
        if not stage.is_complete:
            counts = {"groups": 0, "candidates": 0, "judgements": 0}
            conditioned: bool | None = None
            set_read = build_import(source.importer, source.path, **source.settings)
            with _broken_rows_listed(stage.path, set_read.report, progress), progress.bar(f"import {source.importer}", None) as advance:
                for index, block in enumerate(_blocks(set_read.groups, source.groups_per_shard)):
                    # A set is read in one stream: after an interrupt it is read again, and only what is missing is written.
                    candidates = [candidate for group in block for candidate in group.candidates]
                    preferences = [preference for group in block for preference in group.preferences]
                    before, conditioned = conditioned, has_conditions([candidate.condition for candidate in candidates], source.path)
                    if before not in (None, conditioned):
                        told = "conditions, and the next have none" if before else "no conditions, and the next have some"
                        raise ValueError(f"{source.path}: the first {counts['groups']} groups have {told}; give one to each, or to none")
                    if not stage.shard(index).is_file():
                        write_candidates(stage.shard(index), candidates)
                    if not judgements_path(stage.path, index).is_file():
                        write_preferences(judgements_path(stage.path, index), preferences)
                    for name, rows in (("groups", block), ("candidates", candidates), ("judgements", preferences)):
                        counts[name] += len(rows)
                    advance(len(block))
            report = set_read.report
            faults = {key: count for key in ("silent_kept", "clipped_kept") if (count := getattr(report, key))}
            told = {key: getattr(report, key) for key in TOLD}
            stage.finish(counts | {"report": told | faults})
            progress.say(
                f"import: {counts['candidates']} candidates, {counts['judgements']} judgements in {stage.path}; "
                f"of {report.read} rows {report.kept} kept ({report.tied} tied), {report.skipped} skipped, {report.broken} broken"
            )
            for count, what in ((report.silent_kept, "silent"), (report.clipped_kept, "clipped")):
                if count:
                    progress.say(f"  {count} sounds are {what}; import without them by pair.source.{what}=broken", style="yellow")
            for reason in report.reasons:  # the first few
                progress.say(f"  broken: {reason}", style="yellow")
        return sorted(stage.path.glob("judgements-*.parquet"))


def set_fingerprint(source: str) -> str | None:
    """A hash of the names and sizes of a set's files, also of those that a pattern names.

    None for a hub id, which its revision fixes, and where there is nothing, which its importer says better.
    """
    from diffalign.data.importers.sources import source_paths

    path = Path(source).expanduser()
    if path.exists():
        return files_fingerprint(path, contents=False)
    try:
        files = source_paths(source)
    except FileNotFoundError:
        return None
    names = b"".join(fsencode(f"{file}\0{files_fingerprint(file, contents=False)}\0") for file in files)
    return f"sha256:{sha256(names).hexdigest()[:24]}" if files else None


def judgements_path(folder: Path, index: int) -> Path:
    """The imported preferences of shard `index`, beside its candidates."""
    return folder / f"judgements-{index:05d}.parquet"


@contextmanager
def _broken_rows_listed(folder: Path, report: ImportReport, progress: Progress) -> Iterator[None]:
    """Lists all broken rows in folder/broken.jsonl at the end of an import, however it ends, and says so; no file where there are none."""
    file = folder / BROKEN
    try:
        yield
    finally:
        if report.broken_rows:
            lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in report.broken_rows]
            write_atomically(file, "".join(lines).encode())
            progress.say(f"import: {report.broken} broken, all listed with their reasons in {file}", style="yellow")
        else:
            file.unlink(missing_ok=True)


def _blocks(groups: Iterator[ImportedGroup], size: int) -> Iterator[list[ImportedGroup]]:
    block: list[ImportedGroup] = []
    for group in groups:
        block.append(group)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def describe(summary: PairingSummary) -> list[str]:
    """The account of pairing in lines: what was kept, what was dropped by which rule, and a histogram of the gaps."""
    by = f" by {summary.by}" if summary.by else ""
    lines = [
        f"pair: {summary.pairs_kept} preferences ({summary.rule}{by}) in {summary.groups_kept} of {summary.groups_read} groups, "
        f"{summary.candidates_read} candidates read"
    ]
    kept_by = {name: f" ({why})" for name, why in KEPT_BY.items()}
    lines += [f"  dropped by {name}: {count} proposed{kept_by.get(name, '')}" for name, count in summary.pairs_dropped.items() if count]
    aside = summary.candidates_dropped.items()
    lines += [f"  set aside, {name}: {count} candidates{kept_by.get(name, '')}" for name, count in aside if count]
    if summary.across_sources:
        lines.append(f"  {summary.across_sources} preferences compare samples of different models: training on them is less stable")
    if summary.gap_range is not None:
        lines.append(f"  gaps from {summary.gap_range[0]:.4g} to {summary.gap_range[1]:.4g}; kept ▇, dropped ░")
        most = max(*summary.gap_proposed, 1)
        for index, (kept, proposed) in enumerate(zip(summary.gap_counts, summary.gap_proposed, strict=True)):
            full = round(BAR * kept / most)
            rest = round(BAR * proposed / most) - full
            if proposed:
                lines.append(
                    f"  {summary.gap_edges[index]:8.4g} {'▇' * full}{'░' * rest} {kept}" + (f" of {proposed}" if kept < proposed else "")
                )
    return lines


def warn_of_sources(shortcut: SourceShortcut) -> str:
    """The warning where the models alone say which sample is preferred: how often, and what to do."""
    best, worst = shortcut.ranking[0], shortcut.ranking[-1]
    fix = "set pair.same_source: true"
    if not shortcut.within:
        fix = "generate several samples per prompt with each model and set pair.same_source: true"
    return (
        f"  the model alone says which sample is preferred in {shortcut.share:.0%} of {shortcut.across} pairs of different models, at "
        f"least {shortcut.at_least:.0%} (one-sided, 95 %; chance is 50 %), ranked from {best!r} to {worst!r}: training may learn the model "
        f"and not the preference. To pair within a model, {fix}; {shortcut.within} pairs are of one model now"
    )
