"""The rules of the house, read from the source: who imports whom, one name everywhere, small files, nothing that runs data as code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("diffalign", "reward_models", "pipelines")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 360

# A part, and the parts of ours that it may import beside itself. The longest prefix of a module's name says which part it is of.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "diffalign": (),
    "diffalign.tensors": (),
    "diffalign.section": (),
    "diffalign.endpoint": ("diffalign.section",),
    "diffalign.did_you_mean": (),
    "diffalign.arguments": ("diffalign.did_you_mean",),
    "diffalign.loudness": (),
    "diffalign.model_source": (),
    "diffalign.objectives": ("diffalign.tensors", "diffalign.arguments", "diffalign.did_you_mean"),
    "diffalign.noising": ("diffalign.tensors", "diffalign.arguments"),
    "diffalign.stabilisers": ("diffalign.tensors", "diffalign.arguments"),
    "diffalign.backbones": ("diffalign.tensors", "diffalign.did_you_mean", "diffalign.model_source", "diffalign.data.modalities"),
    "diffalign.sampling": ("diffalign.backbones", "diffalign.noising"),
    "diffalign.data": ("diffalign.tensors", "diffalign.did_you_mean", "diffalign.data.modalities"),
    "diffalign.data.modalities": (),
    "diffalign.gallery": ("diffalign.data.modalities", "diffalign.loudness"),
    "diffalign.training": (
        "diffalign.tensors",
        "diffalign.section",
        "diffalign.objectives",
        "diffalign.noising",
        "diffalign.backbones",
        "diffalign.sampling",
        "diffalign.data",
    ),
    "reward_models": ("diffalign.did_you_mean", "diffalign.endpoint", "diffalign.loudness", "diffalign.data.modalities"),
    "pipelines": (
        "diffalign",
        "diffalign.tensors",
        "diffalign.section",
        "diffalign.endpoint",
        "diffalign.did_you_mean",
        "diffalign.arguments",
        "diffalign.loudness",
        "diffalign.model_source",
        "diffalign.objectives",
        "diffalign.noising",
        "diffalign.stabilisers",
        "diffalign.backbones",
        "diffalign.sampling",
        "diffalign.data",
        "diffalign.data.modalities",
        "diffalign.gallery",
        "diffalign.training",
        "reward_models",
    ),
}

# Files of a table's folder that are no entry: what the entries share.
SHARED_FILES = {
    "diffalign/objectives": {"position_weights", "prospect", "surrogate"},
    "diffalign/noising": {"inversion"},
    "diffalign/stabilisers": {"error_gradients"},
    "diffalign/backbones": {
        "chat",
        "conditions",
        "contract",
        "density",
        "features",
        "kohya",
        "mel",
        "parts",
        "patches",
        "pipeline",
        "process",
        "quantised",
        "random_weights",
        "schedulers",
        "seeded",
        "tango_release",
        "weights",
    },
    "diffalign/data/modalities": {"signature", "stored"},
    "diffalign/data/importers": {"captions", "exported", "fields", "json_list", "judged", "media", "pair_columns", "report", "sources"},
    "reward_models": {
        "both_orders",
        "clip_transform",
        "contract",
        "encoders",
        "frames",
        "linear_head",
        "open_clip_model",
        "pixels",
        "pretrained",
        "qwen_head",
        "statistic",
        "vision_language",
        "wavlm",
        "waveforms",
        "weights",
    },
    "pipelines": {
        "bench",
        "bench_objectives",
        "bench_step",
        "bootstrap",
        "clear_errors",
        "cli",
        "compare",
        "compare_agreement",
        "compare_cells",
        "compare_child",
        "compare_drift",
        "compare_ground",
        "compare_jobs",
        "compare_looks",
        "compare_marks",
        "compare_page",
        "compare_picture",
        "compare_result",
        "config",
        "config_file",
        "encode_conditions",
        "evaluate_scores",
        "export",
        "export_card",
        "export_lora",
        "export_records",
        "frechet",
        "implicit",
        "json_file",
        "memory",
        "methods_beta",
        "methods_needs",
        "methods_presets",
        "methods_table",
        "model",
        "progress",
        "prompt_files",
        "prompts",
        "report",
        "result_table",
        "reward_eval",
        "reward_metrics",
        "rounds",
        "run_config",
        "run_folder",
        "stage",
        "strategies",
        "train_reference",
        "train_task",
        "unanswered",
        "wrong_prompts",
    },
}

FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "base", "tools", "manager", "handlers"}
REWARD_PACKAGES = {
    "imagereward",
    "hpsv2",
    "hpsv3",
    "pickscore",
    "videoalign",
    "videoscore",
    "visionreward",
    "audioboxaesthetics",
    "laionclap",
}
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


MODULES = {module_name(path): path for path in FILES}


def part_of(module: str) -> str:
    """The part that a module of ours belongs to."""
    return max((part for part in MAY_IMPORT if module == part or module.startswith(part + ".")), key=len)


def imported_modules(name: str, source: ast.Module, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import at any depth, relative ones resolved; import_module(f"a.b.{c}") counts as a.b."""
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                # `from package import module` imports the module; `from module import name` the module that holds the name.
                yield node.lineno, f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
        elif isinstance(node, ast.Call) and called_name(node) in ("import_module", "importlib.import_module", "__import__") and node.args:
            first = node.args[0]
            first = first.values[0] if isinstance(first, ast.JoinedStr) else first
            if isinstance(first, ast.Constant):
                yield node.lineno, str(first.value).rstrip(".")


def called_name(call: ast.Call) -> str:
    """`torch.load` of torch.load(...), `eval` of eval(...); the empty string where it is no plain name."""
    parts, node = [], call.func
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def forbidden_imports(name: str, source: ast.Module, is_package: bool) -> list[str]:
    """One line for each import that the rules do not allow."""
    part = part_of(name)
    found = []
    for line, target in imported_modules(name, source, is_package):
        if target.split(".")[0] in PACKAGES and part_of(target) not in (part, *MAY_IMPORT[part]):
            found.append(f"{name}:{line} imports {target}, but {part} may import only: {', '.join((part, *MAY_IMPORT[part]))}")
    return found


def reward_packages(names: Iterable[str]) -> set[str]:
    """Those that are packages of a released reward, as a module or as pip spells them."""
    return {name for name in names if re.sub(r"[-_.]", "", name.split(".")[0].lower()) in REWARD_PACKAGES}


def dangers(source: ast.Module) -> list[str]:
    """One line for each construct that could run data as code, or that checks input by assert."""
    found = []
    bases = {node.name: [ast.unparse(base) for base in node.bases] for node in ast.walk(source) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(source):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"line {node.lineno} imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Assert):
            found.append(f"line {node.lineno} asserts: raise an error that names the value and the fix")
        elif isinstance(node, ast.Call):
            name, keywords = called_name(node), {keyword.arg: keyword.value for keyword in node.keywords}
            true = {key for key, value in keywords.items() if isinstance(value, ast.Constant) and value.value is True}
            if name in ("eval", "exec", "compile", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"):
                found.append(f"line {node.lineno} calls {name}")
            if name == "yaml.load" and bases.get(ast.unparse(keywords.get("Loader", ast.Constant(None)))) != ["yaml.SafeLoader"]:
                found.append(f"line {node.lineno} calls yaml.load with no Loader of its own file that is a yaml.SafeLoader")
            if name == "torch.load" and "weights_only" not in true:
                found.append(f"line {node.lineno} calls torch.load without weights_only=True")
            found += [f"line {node.lineno} passes {key}=True" for key in ("allow_pickle", "trust_remote_code", "shell") if key in true]
    return found


# The source as it is --------------------------------------------------------------------------------


def test_every_part_is_known() -> None:
    """A new part of diffalign needs its line in MAY_IMPORT."""
    parts = {".".join(name.split(".")[:2]) for name in MODULES if name.startswith("diffalign.")}
    assert parts <= set(MAY_IMPORT), f"give {', '.join(sorted(parts - set(MAY_IMPORT)))} a line in MAY_IMPORT"


@pytest.mark.parametrize("path", FILES, ids=label)
def test_imports(path) -> None:
    assert forbidden_imports(module_name(path), tree(path), path.name == "__init__.py") == []


def test_one_reward_alone_is_of_another_package() -> None:
    """The table names modules as text, which no rule on imports sees."""
    from reward_models import REWARD_MODELS

    assert {name: each.module for name, each in REWARD_MODELS.items() if not each.module.startswith("reward_models.")} == {
        "implicit": "pipelines.implicit"
    }


def test_rewards_are_our_own_and_need_no_package_of_theirs() -> None:
    """Named in no dependency, not of an extra either, and imported nowhere, also not by a name in a text."""
    assert not reward_packages(re.findall(r'"([\w.-]+)', (ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    imported = {name for path in FILES for _, name in imported_modules(module_name(path), tree(path), path.name == "__init__.py")}
    assert "torch" in imported and not reward_packages(imported)


@pytest.mark.parametrize("path", FILES, ids=label)
def test_nothing_runs_data_as_code(path) -> None:
    assert dangers(tree(path)) == []


@pytest.mark.parametrize("path", FILES, ids=label)
def test_files_are_small_and_named_for_what_they_hold(path) -> None:
    assert path.stem not in FORBIDDEN_NAMES, f"{label(path)}: name the file for its one idea"
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{label(path)} has {lines} lines; split it where it holds two ideas"


@pytest.mark.parametrize("path", FILES, ids=label)
def test_public_functions_have_type_hints(path) -> None:
    bare = []
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        unhinted = [argument.arg for argument in every if argument.annotation is None and argument.arg not in ("self", "cls")]
        if unhinted or node.returns is None:
            bare.append(f"line {node.lineno} {node.name}: {', '.join(unhinted) or 'its result'}")
    assert bare == []


@pytest.mark.parametrize("path", [path for path in FILES if path.stat().st_size], ids=label)
def test_modules_say_what_they_are(path) -> None:
    assert ast.get_docstring(tree(path)), f"{label(path)} needs a docstring"


def test_every_module_imports_alone_with_warnings_as_errors() -> None:
    """Each module first of all of ours (third-party ones are kept): a cycle, a missing import or a warning at import fails."""
    code = """
import importlib, sys
for name in sys.argv[2:]:
    for mine in [loaded for loaded in sys.modules if loaded.split(".")[0] in ("diffalign", "reward_models", "pipelines")]:
        del sys.modules[mine]
    try:
        importlib.import_module(name)
    except BaseException as error:
        print(f"{name}: {type(error).__name__}: {error}")
"""
    names = [name for name in MODULES if not name.endswith("__main__")]
    answer = run_python("-W", "error", "-c", code, "--", *names)
    assert (answer.stdout, answer.returncode) == ("", 0), answer.stderr


@pytest.mark.parametrize("module", ["pipelines.cli", "pipelines.config", "reward_models", "diffalign", "diffalign.data.modalities"])
def test_light_modules_stay_light(module) -> None:
    """`diffalign --help` and the tables must not wait for torch."""
    heavy = ("torch", "diffusers", "transformers", "open_clip", "matplotlib", "datasets")
    answer = run_python("-c", f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])")
    assert (answer.stdout.strip(), answer.returncode) == ("[]", 0), answer.stderr


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


# One name everywhere --------------------------------------------------------------------------------


def tables() -> dict[str, list[str]]:
    """Folder → the names in its table."""
    from diffalign.backbones import BACKBONES
    from diffalign.data.importers import IMPORTERS
    from diffalign.data.importers.pair_columns import PAIR_SETS
    from diffalign.data.modalities import MODALITIES
    from diffalign.noising import NOISINGS
    from diffalign.objectives import OBJECTIVES
    from diffalign.stabilisers import STABILISERS
    from pipelines import STAGES
    from reward_models import REWARD_MODELS

    return {
        "diffalign/objectives": list(OBJECTIVES),
        "diffalign/noising": list(NOISINGS),
        "diffalign/stabilisers": list(STABILISERS),
        "diffalign/backbones": list(BACKBONES),
        "diffalign/data/modalities": list(MODALITIES),
        "diffalign/data/importers": [name for name in IMPORTERS if name not in PAIR_SETS],
        "reward_models": [name for name, entry in REWARD_MODELS.items() if entry.module == f"reward_models.{name}"],
        "pipelines": list(STAGES),
    }


def defined(path: Path) -> dict[str, type]:
    """Name → kind of node of what a file defines at its top level."""
    return {node.name: type(node) for node in tree(path).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def class_name(name: str) -> str:
    """stable_diffusion → StableDiffusion."""
    return "".join(word.capitalize() for word in name.split("_"))


@pytest.mark.parametrize("folder", SHARED_FILES)
def test_table_and_folder_hold_the_same_names(folder) -> None:
    files = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__", "__main__"}
    assert files - SHARED_FILES[folder] == set(tables()[folder])
    assert files >= SHARED_FILES[folder], "a shared file that is gone leaves SHARED_FILES too"


@pytest.mark.parametrize("folder", SHARED_FILES)
def test_the_file_defines_what_its_entry_names(folder) -> None:
    functions = dict.fromkeys(("diffalign/objectives", "diffalign/noising", "diffalign/stabilisers", "diffalign/data/importers"), "{}")
    functions |= {"pipelines": "run", "diffalign/backbones": "load"}
    has_class = ("diffalign/backbones", "diffalign/data/modalities", "reward_models", "pipelines")
    for name in tables()[folder]:
        inside = defined(ROOT / folder / f"{name}.py")
        if folder in functions:
            assert inside.get(functions[folder].format(name)) is ast.FunctionDef, f"{folder}/{name}.py: {list(inside)}"
        if folder in has_class:
            assert inside.get(class_name(name)) is ast.ClassDef, f"{folder}/{name}.py: {list(inside)}"


@pytest.mark.parametrize("folder", ["diffalign/objectives", "diffalign/noising", "diffalign/stabilisers"])
def test_one_public_function_to_a_file(folder) -> None:
    for name in tables()[folder]:
        assert [each for each in defined(ROOT / folder / f"{name}.py") if not each.startswith("_")] == [name]


BLIND = ("diffalign/objectives", "diffalign/noising", "diffalign/stabilisers", "diffalign/training", "diffalign/tensors.py")


def words_of(path: Path) -> set[str]:
    """The words in what a file runs, in lower case, also without plural: names, modules and texts, but no comment and no docstring."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body and isinstance(node.body[0], ast.Expr)
    }
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        for value in (
            [node.value]
            if isinstance(node, ast.Constant)
            else [getattr(node, key, None) for key in ("id", "attr", "arg", "name", "module", "asname")]
        ):
            if isinstance(value, str) and id(node) not in docstrings:
                said = re.sub(r"\btransformers\b|clip_(grad_)?norm|^_clip$", "", value)  # the library; gradients
                found |= {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", said)}
    return found | {word.removesuffix("s") for word in found}


@pytest.mark.parametrize("path", [file for part in BLIND for file in FILES if file.is_relative_to(ROOT / part)], ids=str)
def test_what_trains_names_no_modality_and_no_family(path) -> None:
    from diffalign.backbones import BACKBONES
    from reward_models.worlds import WORLDS

    media = {"image", "picture", "pixel", "video", "frame", "audio", "sound", "waveform", "mel"}
    media |= {"photo", "rgb", "height", "width", "movie", "film", "clip", "fps", "speech", "music", "spectrogram", "stereo", "hz"}
    families = {"wan", "tango", "unet", "transformer"}
    assert {family.modality for family in BACKBONES.values()} <= media and set(WORLDS) <= {"shapes", "motion", "tones"}
    assert not words_of(path) & (media | families | {"motion", "tone"})


def test_a_modality_that_is_named_is_found(tmp_path: Path) -> None:
    path = tmp_path / "part.py"
    path.write_text('"""Of videos."""\nif modality == "audio":\n    """images"""\n    take(batch.frame_rates)\n')
    assert {"audio", "image", "frame", "rate"} <= words_of(path) and "video" not in words_of(path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("VIDEO_FPS = 8", {"video", "fps"}),
        ("rate = settings.defaultFPS", {"default", "fps"}),
        ("class RGBFrames: ...", {"rgb", "frame"}),
        ("from diffalign.data.modalities.audio import read", {"audio", "read"}),
        ("import numpy as pixels", {"numpy", "pixel"}),
        ("from transformers.optimization import Adafactor\nshard = transformer", {"adafactor", "transformer"}),
        ("torch.clip_grad_norm_(clips)", {"torch", "clip"}),
    ],
)
def test_constants_modules_and_other_names_are_read_word_by_word(source: str, words: set[str], tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text(source)
    assert words <= words_of(tmp_path / "part.py")


def test_the_library_and_the_norm_of_gradients_are_no_modality_and_no_family(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text("from transformers.optimization import Adafactor\n_clip(clip_grad_norm_, 'lower clip_norm')")
    assert words_of(tmp_path / "part.py") == {"optimization", "adafactor", "lower"}


def test_rewards_of_worlds_live_in_their_world() -> None:
    from reward_models import REWARD_MODELS, reward_class

    for name, entry in REWARD_MODELS.items():
        assert entry.module.rpartition(".")[2] == name
        assert reward_class(name).__name__ == class_name(name)


# The rules themselves are tried on sources that break them --------------------------------------------


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("diffalign.objectives.new", "from diffalign.backbones import load_backbone"),
        ("diffalign.objectives.new", "def f():\n    import diffalign.training.loop"),
        ("diffalign.noising.new", "from ..objectives import OBJECTIVES"),
        ("diffalign.backbones.new", "from diffalign import data"),
        ("diffalign.backbones.new", "from importlib import import_module\nimport_module('diffalign.data.records')"),
        ("diffalign.data.new", "import reward_models"),
        ("diffalign.data.modalities.new", "from diffalign.data.records import Candidate"),
        ("diffalign.training.new", "from pipelines.config import Config"),
        ("reward_models.new", "from diffalign.data.records import Candidate"),
        ("reward_models.new", "from importlib import import_module\nimport_module(f'pipelines.{1}')"),
        ("reward_models.worlds.shapes.new", "if TYPE_CHECKING:\n    from pipelines.stage import open_stage"),
    ],
)
def test_a_forbidden_import_is_found(name, source) -> None:
    assert len(forbidden_imports(name, ast.parse(source), is_package=False)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("diffalign.objectives.new", "from diffalign.tensors import Loss\nimport torch"),
        ("diffalign.training.new", "from diffalign.objectives import OBJECTIVES\nfrom . import checkpoint"),
        ("reward_models.new", "from diffalign.data.modalities.image import Image"),
        ("pipelines.new", "from reward_models import load_reward\nfrom diffalign.backbones import load_backbone"),
    ],
)
def test_an_allowed_import_is_not(name, source) -> None:
    assert forbidden_imports(name, ast.parse(source), is_package=False) == []


@pytest.mark.parametrize("name", ["ImageReward", "ImageReward.utils", "image-reward", "hpsv2", "hpsv3", "pickscore", "audiobox_aesthetics"])
def test_a_package_of_a_reward_is_found(name: str) -> None:
    assert reward_packages([name, "torch", "reward_models.image_reward"]) == {name}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec(code)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "class Mine(yaml.Loader): ...\nyaml.load(text, Loader=Mine)",
        "subprocess.run(line, shell=True)",
        "assert x > 0",
    ],
)
def test_a_danger_is_found(source) -> None:
    assert len(dangers(ast.parse(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "model.eval()",
        "yaml.safe_load(text)",
        "class Mine(yaml.SafeLoader): ...\nyaml.load(text, Loader=Mine)",
        "np.load(path)",
    ],
)
def test_what_is_safe_is_not(source) -> None:
    assert dangers(ast.parse(source)) == []
