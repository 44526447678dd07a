"""The command `diffalign`: one subcommand per stage, one for the whole road, and the tables of what can be named in a config.

Nothing heavy is imported before a command needs it: `diffalign --help` must not wait for torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines import ROAD, STAGES
from pipelines.clear_errors import clear_errors

if TYPE_CHECKING:
    from pipelines.config import Config
    from pipelines.progress import Progress

app = typer.Typer(
    help="Turns preferences into better diffusion models.\n\nThe road: " + " → ".join(ROAD),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="a YAML file, or the name of a bundled one (quickstart)")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE …]", help="settings that replace the file's: train.steps=100")]
Redo = Annotated[bool, typer.Option("--redo", help="make it again; what is there is moved to RUN/replaced")]
Traceback = Annotated[bool, typer.Option("--traceback", help="show where an error arose (also: DIFFALIGN_TRACEBACK=1)")]


def main() -> None:
    """The entry point of the command."""
    app(prog_name="diffalign")


def _show_version(wanted: bool) -> None:
    if wanted:
        from diffalign import __version__

        typer.echo(f"diffalign {__version__}")
        raise typer.Exit


@app.callback()
def diffalign(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version")] = False,
) -> None:
    pass


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    redo: Redo = False,
    start: Annotated[str | None, typer.Option("--from", metavar="STAGE", help=f"begin at one of: {', '.join(ROAD)}")] = None,
    traceback: Traceback = False,
) -> None:
    """All stages of the config's road; what is complete is not made again. Ends with the comparison and the gallery."""
    with clear_errors(traceback):
        from pipelines.config import load_config
        from pipelines.evaluate import prompts_of
        from pipelines.run_folder import full_disk_is_clear, lock_run
        from pipelines.train import teacher_folder

        settings = load_config(config, overrides or ())
        stages = _stages_from(settings, start)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                "accelerate launch is for one stage: accelerate launch -m pipelines.cli train CONFIG; run the others without it"
            )
        if "train" in stages and settings.train is not None and settings.train.teacher is not None:
            teacher_folder(settings.train.teacher)
        if "evaluate" in stages and settings.evaluate is not None:
            prompts_of(settings, settings.evaluate)  # refused now, and not after the samples are made
        progress = _progress()
        with full_disk_is_clear(settings.run), lock_run(settings.run):
            for stage in stages:
                _run_stage(stage, settings, redo=redo, progress=progress)
        _show_result(settings)


def _stages_from(config: Config, start: str | None) -> Sequence[str]:
    road = config.road
    if not road and config.pretrain is not None:
        raise ValueError("pretrain, the only stage of this config, stands beside the road; run it with: diffalign pretrain CONFIG")
    if not road:
        raise ValueError(f"the config has no stage to run; add a section for at least one of: {', '.join(ROAD)}")
    if start is None:
        return road
    if start not in road:
        raise ValueError(f"--from {start!r} is no stage of this config; it has: {', '.join(road)}")
    return road[road.index(start) :]


def _add_stage_command(name: str) -> None:
    def command(config: ConfigPath, overrides: Overrides = None, redo: Redo = False, traceback: Traceback = False) -> None:
        with clear_errors(traceback):
            from pipelines.config import load_config

            settings = load_config(config, overrides or ())
            if getattr(settings, name) is None:
                sections = ", ".join(stage for stage in STAGES if getattr(settings, stage) is not None)
                raise ValueError(f"{config} has no section {name}; it has: {sections or 'none'}. Add `{name}:` with its settings")
            _run_stage(name, settings, redo=redo, progress=_progress())
            if name == "evaluate":
                _show_result(settings)

    does = STAGES[name].does
    app.command(name, help=f"{does[0].upper()}{does[1:]}.")(command)


for _stage in STAGES:
    _add_stage_command(_stage)


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="an objective or a preset of configs/methods: formula, paper, needs, β elsewhere")
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="the objectives as the table of the README, with their papers")] = False,
    traceback: Traceback = False,
) -> None:
    """The objectives and the presets of configs/methods, or one of them in full."""
    with clear_errors(traceback):
        from pipelines.methods_presets import PRESET_COLUMNS, presets_rows
        from pipelines.methods_table import COLUMNS, describe, markdown, methods_rows

        if as_markdown:
            print(markdown())
        elif name is None:
            _show_table(COLUMNS, methods_rows())
            _show_table(PRESET_COLUMNS, presets_rows())
        else:
            print(describe(name))


@app.command()
def rewards(traceback: Traceback = False) -> None:
    """The reward models."""
    with clear_errors(traceback):
        from reward_models import REWARD_MODELS

        rows = [
            (name, ", ".join(sorted(entry.modalities)), f"diffalign[{entry.extra}]" if entry.extra else "–", entry.summary)
            for name, entry in REWARD_MODELS.items()
        ]
        _show_table(("reward", "media", "needs", "what it measures"), rows)


@app.command()
def backbones(traceback: Traceback = False) -> None:
    """The model families."""
    with clear_errors(traceback):
        from diffalign.backbones import BACKBONES

        _show_table(("backbone", "makes", "models"), [(name, family.modality, family.models) for name, family in BACKBONES.items()])


@app.command()
def bench(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="step (against its floor), encode (in the step against once) or objectives (against diffusion_dpo)"
        ),
    ] = "step",
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG] [KEY=VALUE …]", help="step takes a config: of its training a row of a markdown table; steps=10"),
    ] = None,
    traceback: Traceback = False,
) -> None:
    """Measure what a training step costs on this machine."""
    with clear_errors(traceback):
        overrides = words or []
        config = next((word for word in overrides if "=" not in word or Path(word).is_file()), None)
        if what == "step" and config is not None:
            from pipelines.bench_step import measure_step

            _quiet_libraries()
            print(measure_step(config, [word for word in overrides if word != config]))
            return
        from pipelines.bench import Bench
        from pipelines.bench import run as run_bench
        from pipelines.config import read_section

        print(run_bench(what, read_section(Bench, overrides)))


@app.command()
def export(
    config: ConfigPath,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="a new folder")],
    overrides: Overrides = None,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="parquet (datasets opens it) or jsonl (people do)")] = "parquet",
    licence: Annotated[str | None, typer.Option("--license", metavar="NAME", help="of the set, for its card")] = None,
    traceback: Traceback = False,
) -> None:
    """Write the run's preferences as a set that others open, with media and a card."""
    with clear_errors(traceback):
        from pipelines.config import load_config
        from pipelines.export import run as run_export

        run_export(load_config(config, overrides or ()), to, form=form, licence=licence, progress=_progress())


@app.command("export-lora")
def export_lora(
    config: ConfigPath,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="a new file that ends in .safetensors")],
    overrides: Overrides = None,
    traceback: Traceback = False,
) -> None:
    """Write the run's LoRA in the keys that ComfyUI and, of the families that they have, kohya's scripts and A1111 read."""
    with clear_errors(traceback):
        from pipelines import export_lora as module
        from pipelines.config import load_config

        module.run(load_config(config, overrides or ()), to, progress=_progress())


@app.command()
def compare(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG … [KEY=VALUE …]", help="the methods' files; settings (seeds=3 workers=2) or theirs; each.KEY=[…] for variants"
        ),
    ],
    traceback: Traceback = False,
) -> None:
    """Methods side by side: the same candidates and base, a grid for each, several seeds on held-out prompts."""
    with clear_errors(traceback):
        from pipelines.compare import check_joins, read_words
        from pipelines.compare import run as run_compare
        from pipelines.compare_page import command_of, commit_of, comparison_table, write_page
        from pipelines.compare_result import join
        from pipelines.json_file import read_json

        _quiet_libraries()
        roads, settings = read_words(words)
        earlier = None if settings.earlier is None else read_json(settings.earlier, "name the compare.json beside another page")
        if earlier is not None:
            check_joins(earlier, roads, settings)
        made = [{"command": command_of(words), "commit": commit_of()}]
        result = run_compare(roads, settings, progress=_progress()) | {"made": made}
        if earlier is not None:
            result = join(result, earlier)
        page = settings.out or settings.run / "README.md"
        write_page(result, page)
        _print_table(comparison_table(result))
        print(f"page: {page.resolve()}")


@app.command()
def rounds(
    config: ConfigPath,
    overrides: Overrides = None,
    count: Annotated[int, typer.Option("--count", metavar="N", help="how many")] = 3,
    traceback: Traceback = False,
) -> None:
    """The road again and again, each round from the model that the last one ended with, on samples of its own."""
    with clear_errors(traceback):
        from pipelines import rounds as module
        from pipelines.config import load_config
        from pipelines.run_folder import full_disk_is_clear, lock_run

        settings, progress = load_config(config, overrides or ()), _progress()
        with full_disk_is_clear(settings.run), lock_run(settings.run):
            module.run(settings, count, lambda stage, own: _run_stage(stage, own, redo=False, progress=progress), progress=progress)
        _show_result(settings)


@app.command("reward-eval")
def reward_eval(config: ConfigPath, overrides: Overrides = None, traceback: Traceback = False) -> None:
    """How well the run's rewards agree with its judgements: pairs in order, lists, best of K, calibration."""
    with clear_errors(traceback):
        from pipelines import reward_eval as module
        from pipelines.config import load_config
        from pipelines.run_folder import full_disk_is_clear, lock_run

        settings = load_config(config, overrides or ())
        with full_disk_is_clear(settings.run), lock_run(settings.run):
            report = module.run(settings, progress=_progress())
        _show_table(module.COLUMNS, module.rows(report))
        print(f"{module.caption(report)}\npage: {(settings.run / module.FOLDER / 'README.md').resolve()}")


def _run_stage(name: str, config: Config, *, redo: bool, progress: Progress) -> None:
    from pipelines.run_config import keep_config
    from pipelines.run_folder import full_disk_is_clear, lock_run

    _quiet_libraries()
    is_main = int(os.environ.get("RANK", "0")) == 0
    with ExitStack() as held:
        if is_main:
            held.enter_context(full_disk_is_clear(config.run))
            held.enter_context(lock_run(config.run))
        import_module(f"pipelines.{name}").run(config, redo=redo, progress=progress)
        if is_main:
            keep_config(config, name)


def _quiet_libraries() -> None:
    """No bars of theirs between ours. The user's own choice of verbosity stays."""
    for name, value in {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}.items():
        os.environ.setdefault(name, value)


def _progress() -> Progress:
    from pipelines.progress import Progress

    return Progress(silent=int(os.environ.get("RANK", "0")) > 0)


def _show_result(config: Config) -> None:
    from pipelines.stage import stage_path

    evaluation = stage_path(config, "evaluate")
    if config.evaluate is not None and (evaluation / "report.json").is_file():
        from pipelines.report import read_report
        from pipelines.result_table import result_table

        _print_table(result_table(read_report(evaluation)))
    page = stage_path(config, "gallery") / "index.html"
    if config.gallery is not None and page.is_file():
        print(f"gallery: {page.resolve()}")


def _show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    _print_table(table)


def _print_table(table: Table) -> None:
    console = Console()
    # A pipe or file gets whole lines, however long: grep must find them. A terminal too narrow for the numbers wraps them: none is cut.
    least = console.measure(table, options=console.options.update(width=10_000)).minimum
    console.width = max(console.width, least) if console.is_terminal else 400
    console.print(table)


if __name__ == "__main__":
    main()
