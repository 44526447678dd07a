"""The wheel holds all three packages with what they bundle, and works outside the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network and unpacked (what installing a pure wheel does) far from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def python(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "120"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=installed.parent, env=environment, check=False)


def test_packages_import_from_the_wheel(installed: Path) -> None:
    code = "import diffalign, reward_models, pipelines; print(*(m.__file__ for m in (diffalign, reward_models, pipelines)), sep='\\n')"
    found = python(installed, "-c", code)
    assert found.returncode == 0, found.stderr
    for path, package in zip(found.stdout.split("\n"), ("diffalign", "reward_models", "pipelines")):
        assert Path(path) == installed / package / "__init__.py"


def test_every_module_of_the_checkout_is_in_the_wheel(installed: Path) -> None:
    for package in ("diffalign", "reward_models", "pipelines"):
        for source in (ROOT / package).rglob("*"):
            if source.is_file() and "__pycache__" not in source.parts and not source.name.startswith("."):
                assert (installed / source.relative_to(ROOT)).is_file(), f"{source.relative_to(ROOT)} is missing from the wheel"


def test_bundled_configs_are_found_by_name(installed: Path) -> None:
    names = sorted(path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
    assert "quickstart" in names
    code = f"from pipelines.config import config_path\nfor name in {names}: print(config_path(name))"
    found = python(installed, "-c", code)
    assert found.returncode == 0, found.stderr
    for name, path in zip(names, found.stdout.split("\n")):
        assert Path(path) == installed / "pipelines" / "configs" / f"{name}.yaml"


def test_bundled_models_are_found(installed: Path) -> None:
    assets = [path.name for path in (ROOT / "diffalign" / "assets").iterdir() if (path / "model_index.json").is_file()]
    assert "shapes" in assets
    for name in assets:
        found = python(installed, "-c", f"from diffalign.model_source import source_path; print(source_path('bundled:{name}'))")
        assert found.returncode == 0, found.stderr
        assert Path(found.stdout.strip()) == installed / "diffalign" / "assets" / name
        size = sum(file.stat().st_size for file in (installed / "diffalign" / "assets" / name).rglob("*") if file.is_file())
        assert size <= 12_000_000


def test_the_command_starts_without_torch(installed: Path) -> None:
    found = python(installed, "-m", "pipelines.cli", "--help")
    assert found.returncode == 0, found.stderr
    assert "quickstart" in found.stdout or "run" in found.stdout
    code = "import sys; from pipelines import cli; sys.exit('torch' in sys.modules)"
    assert python(installed, "-c", code).returncode == 0


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
