"""What the README says is true: its commands run, its tables name what the code's do, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from tiny_preference_sets import save_two_folders
from tiny_stable_diffusion import save_tiny_stable_diffusion
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
# Run at these sizes, a command takes seconds. What a line says of its own stands before, so the last word is ours.
SMALL = {
    "configs/quickstart.yaml": (
        "generate.prompts.count=3", "generate.samples_per_prompt=3", "generate.steps=4", "pair.by=shapes.score", "train.steps=2",
        "train.warmup_steps=0", "train.batch_size=2", "train.tracker=null", "evaluate.prompts.count=2", "evaluate.steps=2",
    ),
    "configs/own_pairs_lora.yaml": (
        "encode.size=32", "train.steps=2", "train.warmup_steps=1", "train.batch_size=4", "train.micro_batch_size=2",
        "evaluate.size=[32, 32]", "evaluate.steps=2", "evaluate.samples_per_prompt=1",
    ),
}  # fmt: skip
COMMANDS = [line for line in LINES if re.search(r"\bdiffalign \w|pipelines\.cli", line)]


def test_the_readme_has_commands():
    assert {"make quickstart", "make test"} <= set(LINES)
    assert len(LINES) >= 8


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_targets_exist(line):
    target = line.split()[1]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(target)}:", makefile, flags=re.M), f"README says {line!r}; the Makefile has no {target}"


def test_the_files_of_configs_that_are_named_are_there():
    named = set(re.findall(r"configs/[\w/]+\.\w+", README)) - {"configs/FAMILY_METHOD.yaml", "configs/methods/NAME.yaml"}
    assert len(named) > 10 and [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def words_of(line):
    """The command and its arguments, behind whatever starts it."""
    words = shlex.split(line)
    start = next(index for index, word in enumerate(words) if word.endswith("diffalign") or word == "pipelines.cli")
    return words[start + 1 :]


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers hands tensors to numpy
def test_commands_run(monkeypatch, tmp_path):
    """Every `diffalign` line, in the README's order, through the command itself.

    Parsed here and no more: `accelerate launch` of the training of Stable Diffusion, which needs GPUs and Pick-a-Pic (two processes do
    run in tests/pipelines/test_train.py, the config on a tiny model in test_end_to_end.py). Not run: the installation, and make.
    """
    from pipelines import STAGES
    from pipelines.cli import app
    from pipelines.config import load_config

    monkeypatch.chdir(ROOT)
    given = {"/models/sd15": save_tiny_stable_diffusion(tmp_path / "sd15"), "/data/pairs": save_two_folders(tmp_path / "pairs")}
    for line in COMMANDS:
        command, *arguments = words_of(line)
        for placeholder, path in given.items():
            arguments = [argument.replace(placeholder, str(path)) for argument in arguments]
        if line.startswith("accelerate launch"):
            assert getattr(load_config(*arguments[:1], arguments[1:]), command) is not None
            continue
        if command in ("run", *STAGES):
            arguments += [*SMALL[arguments[0]], f"run={tmp_path / Path(arguments[0]).stem}"]
        result = CliRunner().invoke(app, [command, *arguments])
        assert result.exit_code == 0, (line, result.output, result.exception)
    for config in SMALL:
        assert (tmp_path / Path(config).stem / "gallery/index.html").is_file()


@pytest.mark.integration
@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, flags=re.S))
def test_python_runs(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "configs").rglob("*.md"))], ids=lambda page: page.parent.name)
def test_links_lead_somewhere(page):
    """Of the README, and of the pages beside the configs, with their pictures."""
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert targets and [each for each in targets if not each.startswith("https://") and not (page.parent / each).exists()] == []


def test_presets_are_of_the_objectives_that_the_readme_says():
    from pipelines.config import load_config

    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| `(\w+)` \| ", README, flags=re.M)
    told = {name: objective for names, objective in rows for name in re.findall(r"\w+", names)}
    methods = {path.stem: load_config(path).train.objective["name"] for path in (ROOT / "configs" / "methods").glob("*.yaml")}
    assert told == {name: objective for name, objective in methods.items() if name != objective}


def test_the_table_of_objectives_is_true():
    """`make readme` writes it. An objective may be missing: adding one touches file, line, config and test, no fifth place."""
    from pipelines.methods_table import markdown

    head, rule, *rows = re.search(r"^\| name \| rows \|.*\n(?:\|.*\n)*", README, flags=re.M)[0].splitlines()
    said = markdown().splitlines()
    assert [head, rule] == said[:2] and len(rows) >= 40
    assert rows == [line for line in said[2:] if line in rows], "run make readme"


def test_tables_name_everything():
    """Name = file = function = config value = README row."""
    from diffalign.data.importers import IMPORTERS
    from pipelines import ROAD
    from reward_models import REWARD_MODELS

    for name in (*REWARD_MODELS, *IMPORTERS, *ROAD):
        assert f"`{name}`" in README, f"{name} has no place in the README"
