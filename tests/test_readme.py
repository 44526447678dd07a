"""What the README says is true: its commands exist, their configs parse, its tables name what the code's do, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
# Given by the reader: any file or folder does.
PLACEHOLDERS = {"/models/sd15": "bundled:shapes", "/data/pairs": "."}


def test_the_readme_has_commands():
    assert {"make quickstart", "make test"} <= set(LINES)
    assert len(LINES) >= 8


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_targets_exist(line):
    target = line.split()[1]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(target)}:", makefile, flags=re.M), f"README says {line!r}; the Makefile has no {target}"


@pytest.mark.parametrize("line", [line for line in LINES if re.search(r"\bdiffalign \w|pipelines\.cli", line)])
def test_commands_parse(line, monkeypatch):
    """Tables are printed for real; for a stage, or the road, config and overrides must load."""
    from pipelines.cli import app
    from pipelines.config import load_config

    monkeypatch.chdir(ROOT)
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line)]
    start = next(index for index, word in enumerate(words) if word.endswith("diffalign") or word == "pipelines.cli")
    command, *arguments = words[start + 1 :]
    names = [entry.name or (entry.callback.__name__ if entry.callback else "") for entry in app.registered_commands]
    assert command in names, f"README says {line!r}; the commands are {names}"
    if command in ("methods", "rewards", "backbones"):
        result = CliRunner().invoke(app, [command, *arguments])
        assert result.exit_code == 0, result.output
        return
    overrides = [f"{key}={PLACEHOLDERS.get(value, value)}" for key, _, value in (word.partition("=") for word in arguments[1:])]
    config = load_config(arguments[0], overrides)
    assert command == "run" or getattr(config, command) is not None


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target):
    assert target.startswith("https://") or (ROOT / target).exists(), f"README links to {target}, which is not there"


def test_tables_name_everything():
    """Name = file = function = config value = README row."""
    from diffalign.data.importers import IMPORTERS
    from diffalign.objectives import OBJECTIVES
    from pipelines import ROAD
    from reward_models import REWARD_MODELS

    for name in (*OBJECTIVES, *REWARD_MODELS, *IMPORTERS, *ROAD):
        assert f"`{name}`" in README, f"{name} has no place in the README"
