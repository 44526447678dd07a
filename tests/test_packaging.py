"""The wheel holds all three packages with what they bundle, and works outside the checkout; the sdist holds what its tests read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from diffalign.data.records import read_candidates, read_scores
from pipelines import STAGES

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, both built from the checkout and without a network."""
    folder = tmp_path_factory.mktemp("built")
    called(folder, sys.executable, "-m", "build", "--wheel", "--sdist", "--no-isolation", "--outdir", str(folder), str(ROOT))
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip installs it, without a network and far from the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    [wheel] = built.glob("*.whl")
    called(folder, sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel))
    return folder / "site"


def called(folder: Path, *command: str, **environment: str) -> str:
    """What the command says, run in `folder`, which is outside the checkout; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(installed: Path, *arguments: str) -> str:
    return called(installed.parent, sys.executable, *arguments, PYTHONPATH=str(installed))


def diffalign(installed: Path, *arguments: str) -> str:
    """The script that pip installed."""
    return called(installed.parent, str(installed / "bin" / "diffalign"), *arguments, PYTHONPATH=str(installed), COLUMNS="120")


def test_packages_import_from_the_wheel(installed: Path) -> None:
    code = "import diffalign, reward_models, pipelines; print(*(m.__file__ for m in (diffalign, reward_models, pipelines)), sep='\\n')"
    found = python(installed, "-c", code)
    for path, package in zip(found.split("\n"), ("diffalign", "reward_models", "pipelines")):
        assert Path(path) == installed / package / "__init__.py"


def test_every_module_of_the_checkout_is_in_the_wheel(installed: Path) -> None:
    for package in ("diffalign", "reward_models", "pipelines"):
        for source in (ROOT / package).rglob("*"):
            if source.is_file() and "__pycache__" not in source.parts and not source.name.startswith("."):
                assert (installed / source.relative_to(ROOT)).is_file(), f"{source.relative_to(ROOT)} is missing from the wheel"


def test_bundled_configs_are_found_by_name(installed: Path) -> None:
    names = sorted(path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
    assert "quickstart" in names
    code = f"from pipelines.config_file import config_path\nfor name in {names}: print(config_path(name))"
    found = python(installed, "-c", code)
    for name, path in zip(names, found.split("\n")):
        assert Path(path) == installed / "pipelines" / "configs" / f"{name}.yaml"


def test_bundled_models_are_found(installed: Path) -> None:
    assets = [path.name for path in (ROOT / "diffalign" / "assets").iterdir() if (path / "model_index.json").is_file()]
    assert "shapes" in assets
    for name in assets:
        found = python(installed, "-c", f"from diffalign.model_source import source_path; print(source_path('bundled:{name}'))")
        assert Path(found.strip()) == installed / "diffalign" / "assets" / name
        size = sum(file.stat().st_size for file in (installed / "diffalign" / "assets" / name).rglob("*") if file.is_file())
        assert size <= 12_000_000


def test_the_command_starts_without_torch(installed: Path) -> None:
    help_text = diffalign(installed, "--help")
    commands = re.findall(r"^  ([a-z]+) ", help_text.partition("Commands:")[2], re.MULTILINE)
    assert set(commands) == {"run", *STAGES, "methods", "rewards", "backbones", "bench", "compare", "rounds", "export"}
    python(installed, "-c", "import sys; from pipelines import cli; sys.exit('torch' in sys.modules)")


def test_two_stages_run_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny = (f"run={run}", "model.device=cpu", "generate.prompts.count=2", "generate.samples_per_prompt=1", "generate.steps=1")
    diffalign(installed, "generate", "quickstart", *tiny)
    told = diffalign(installed, "score", "quickstart", *tiny)
    names = [candidate.candidate_id for candidate in read_candidates(run / "candidates")]
    scores = read_scores(run / "scores")
    assert len(names) == 2 and {"shapes.overall", "sharpness.score"} <= set(scores), told
    assert all(sorted(values) == sorted(names) for values in scores.values())


def test_the_sdist_holds_what_its_tests_read(built: Path) -> None:
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert {*tests, "README.md", "Makefile", "LICENSE", ".ci/run", ".pre-commit-config.yaml", ".github/gallery.webp"} <= held


def test_metadata(installed: Path) -> None:
    [info] = installed.glob("diffalign-*.dist-info")
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    assert "License-Expression: Apache-2.0" in metadata
    assert re.search(r"Requires-Python: .*>=3\.10", metadata)
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text(encoding="utf-8")
    assert "diffalign = pipelines.cli:main" in (info / "entry_points.txt").read_text(encoding="utf-8")


def test_nothing_installs_from_a_named_host() -> None:
    """No lock file with registry hosts, no index in the project's own files: every user's own configuration decides."""
    assert not (ROOT / "uv.lock").exists()
    for name in ("Makefile", "pyproject.toml", ".ci/run", ".pre-commit-config.yaml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"index-url|extra-index|find-links|--index\b", text), name
