from __future__ import annotations

import errno
import inspect
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_backbone import Loader, loader  # noqa: F401 (a fixture)
from typer.testing import CliRunner

import pipelines.cli
import pipelines.generate
import pipelines.methods_table
from diffalign import __version__
from diffalign.objectives import OBJECTIVES, defaults, objective_function
from pipelines import STAGES
from pipelines.cli import app
from pipelines.config_file import bundled_configs
from pipelines.methods_beta import pull
from pipelines.methods_presets import presets
from reward_models import REWARD_MODELS

ROOT = Path(__file__).parents[2]
CONFIG = """
run: {run}
model: {{source: fake/model}}
generate: {{prompts: {{texts: [one, two, three]}}}}
score: {{rewards: {{sharpness: {{}}}}}}
pair: {{by: sharpness.score}}
"""


@pytest.fixture
def config(tmp_path: Path, loader: Loader) -> str:  # noqa: F811
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(run=tmp_path / "run"), encoding="utf-8")
    return str(path)


def call(*arguments: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == status, (result.output, result.exception)
    return result


def test_help_does_not_import_torch() -> None:
    code = "import sys; sys.argv = ['diffalign', '--help']\nfrom pipelines.cli import main\ntry: main()\nexcept SystemExit: pass\n" + (
        "found = {'torch', 'diffusers', 'transformers', 'numpy', 'pyarrow'} & set(sys.modules); assert not found, found"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert "generate → score → pair → encode → train → evaluate → gallery" in told
    assert all(f"  {name} " in told for name in STAGES)


def test_version() -> None:
    assert call("--version").stdout == f"diffalign {__version__}\n"


def test_run_takes_the_road_and_a_second_run_does_nothing(config: str, tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    told = call("run", config).stderr
    assert "generate: 12 candidates for 3 prompts" in told and "pair: 3 preferences" in told
    told = call("run", config).stderr
    assert told.count("nothing to do") == 3 and len(loader.loaded) == 1


def test_what_the_evaluation_would_refuse_is_refused_before_the_first_sample(tmp_path: Path) -> None:
    words = (str(bundled_configs() / "quickstart_tones.yaml"), f"run={tmp_path / 'run'}", "evaluate.prompts.count=4")
    for command in ("run", "rounds"):
        assert "a Fréchet distance of 4 different prompts says nothing" in call(command, *words, status=1).stderr
    assert not (tmp_path / "run" / "candidates").exists()


def test_the_resolved_config_reruns_the_run(config: str, tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    call("run", config, "generate.steps=7", "seed=3")
    assert call("run", str(tmp_path / "run" / "config.yaml")).stderr.count("nothing to do") == 3


def test_the_config_of_the_run_follows_what_made_it(config: str, tmp_path: Path) -> None:
    """A later command need not repeat the overrides of an earlier one; what it does change is taken over."""
    resolved = tmp_path / "run" / "config.yaml"
    call("generate", config, "generate.steps=7", "seed=3")
    call("score", config, "score.rewards={sharpness: {}, contrast: {}}")
    call("pair", config, "seed=3", "pair.rule=all_pairs")
    for _ in range(2):
        values = yaml.safe_load(resolved.read_text(encoding="utf-8"))
        assert (values["generate"]["steps"], values["seed"], values["pair"]["rule"]) == ([7], 3, "all_pairs")
        assert set(values["score"]["rewards"]) == {"sharpness", "contrast"}
        assert call("run", str(resolved)).stderr.count("nothing to do") == 4
    call("generate", config, "--redo", "seed=4")
    values = yaml.safe_load(resolved.read_text(encoding="utf-8"))
    assert (values["seed"], values["generate"]["steps"], values["pair"]["rule"]) == (4, [20], "all_pairs")
    resolved.write_text("{", encoding="utf-8")
    call("generate", config, "seed=4")
    assert yaml.safe_load(resolved.read_text(encoding="utf-8"))["seed"] == 4


def test_stages_one_by_one(config: str, tmp_path: Path) -> None:
    assert "first: diffalign generate CONFIG" in call("score", config, status=1).stderr
    for stage in ("generate", "score", "pair"):
        call(stage, config)
    assert (tmp_path / "run" / "preferences" / "shard-00000.parquet").is_file()
    assert "has no section train; it has: generate, score, pair" in call("train", config, status=1).stderr


def test_redo_from_a_stage(config: str, tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    call("run", config)
    assert "rule: was" in call("run", config, "pair.rule=all_pairs", status=1).stderr
    told = call("run", config, "pair.rule=all_pairs", "--redo", "--from", "pair").stderr
    assert "pair: 18 preferences" in told and len(loader.loaded) == 1
    assert "it has: generate, score, pair" in call("run", config, "--from", "train", status=1).stderr
    call("run", config, "generate.steps=3", "--redo")
    assert (tmp_path / "run" / "replaced" / "scores" / "sharpness.1").is_dir()


@pytest.mark.parametrize("command", ["run", "generate"])
def test_a_disk_that_is_full_at_the_start_is_clear(config: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", lambda *arguments, **settings: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    told = call(command, config, status=1).stderr
    assert "the disk is full" in told and "free some space and run the same command again" in told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("beta is -1; it is positive [0, 1]"), "error: beta is -1; it is positive [0, 1]"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.png"), "No such file or directory: 'x.png'; check the path"),
        (FileNotFoundError("no model 'x'; give y"), "error: no model 'x'; give y"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "no permission for '/data/x'"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (ModuleNotFoundError("reward 'clip_score' needs open_clip: pip install 'diffalign[clip]'"), "pip install 'diffalign[clip]'"),
        (MemoryError("12 GiB"), "out of memory (12 GiB); lower batch_size"),
    ],
)
def test_errors_of_the_user_are_one_message(config: str, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        raise error

    monkeypatch.setattr(pipelines.generate, "load_model", fail)
    output = call("generate", config, status=1).stderr
    assert told in output and "Traceback" not in output
    assert isinstance(CliRunner().invoke(app, ["generate", config, "--traceback"]).exception, type(error))
    assert isinstance(CliRunner(env={"DIFFALIGN_TRACEBACK": "1"}).invoke(app, ["generate", config]).exception, type(error))


def test_bugs_keep_their_traceback(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(pipelines.generate, "load_model", fail)
    assert isinstance(CliRunner().invoke(app, ["generate", config]).exception, KeyError)


def test_unknown_keys_and_files_in_the_command(config: str) -> None:
    assert "unknown key 'generate.step' (did you mean 'steps'?)" in call("run", config, "generate.step=3", status=1).stderr
    assert "no config 'quikstart' (did you mean 'quickstart'?)" in call("run", "quikstart", status=1).stderr
    assert "cannot read the override 'steps'" in call("run", config, "steps", status=1).stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_says_how_to_resume(config: str, tmp_path: Path, number: int, loader: Loader) -> None:  # noqa: F811
    code = (
        # Where the tests run in the background of a shell, Ctrl-C is ignored, and a child inherits that.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import pipelines.generate; from fake_backbone import Loader; from pipelines.cli import main\n"
        f"pipelines.generate.load_model = Loader(seconds=4.0); sys.argv = ['diffalign', 'generate', {config!r}, 'generate.batch_size=1', "
        "'generate.prompts_per_shard=1']\nmain()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240  # a busy machine needs a minute to start Python
    while not list((tmp_path / "run").glob("candidates/shard-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    try:
        _, told = process.communicate(timeout=12)
    except subprocess.TimeoutExpired:  # it came inside a destructor, where Python drops it; a person presses again
        process.send_signal(number)
        _, told = process.communicate(timeout=240)
    assert process.returncode == 130 and "resume with the same command" in told and "Traceback" not in told
    call("generate", config, "generate.prompts_per_shard=1")
    assert sum(batch for batch, *_ in loader.loaded[-1].calls) in (4, 8)


def test_two_runs_at_once(config: str, tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from pipelines.run_folder import lock_run\n" + (
        "with lock_run(Path(sys.argv[1])):\n    print(flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, cwd=ROOT)
    assert other.stdout is not None
    try:
        other.stdout.readline()
        assert f"another run works in {tmp_path / 'run'} (pid {other.pid}" in call("run", config, status=1).stderr
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_run_under_accelerate_launch_is_refused(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "accelerate launch -m pipelines.cli train CONFIG" in call("run", config, status=1).stderr


def test_tables() -> None:
    assert all(name in call("methods").stdout for name in OBJECTIVES)
    assert all(name in call("rewards").stdout for name in REWARD_MODELS)
    assert "stable_diffusion" in call("backbones").stdout


def test_the_methods_are_readable_at_100_columns() -> None:
    shown = CliRunner(env={"COLUMNS": "100", "FORCE_COLOR": "1", "TERM": "xterm"}).invoke(app, ["methods"]).stdout
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= 100
    names = ["objective", *OBJECTIVES, "preset", *presets()]
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == names
    assert len(lines) < 2 * len(names)


def test_a_name_that_several_begin_with_is_shown_them() -> None:
    assert "unknown method 'tdpo' (did you mean 'tdpo1' or 'tdpo2'?)" in call("methods", "tdpo", status=1).stderr


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_method_in_full(name: str) -> None:
    told, needs = call("methods", name).stdout, OBJECTIVES[name]
    assert told.startswith(f"{name}: ") and re.search(r"^paper +https://\S+", told, re.MULTILINE)
    assert inspect.getdoc(objective_function(name)) in told
    assert re.search(rf"^rows +{needs.rows}: .*pair\.rule", told, re.MULTILINE)
    assert needs.triples == ("pair.length: 3" in told) and needs.lengths == ("\nlengths " in told)
    assert needs.value_at_reference is None or f"loss {needs.value_at_reference:.6g} at the defaults" in told
    assert all(f"{field}: " in told for each in needs.reads for field in each.split(" or "))
    assert all(f"{key}={value!r}" in told for key, value in defaults(name).items())
    assert ("β_LM = β / (2κ)" in told) == ("beta" in defaults(name))
    [config] = re.findall(r"^in a config +(.*)$", told, re.MULTILINE)
    noising = {"noising": "trajectory"} if needs.own_samples else {}
    assert yaml.safe_load(config) == {
        "train": {"objective": {"name": name, **{key: _plain(value) for key, value in defaults(name).items()}}, **noising}
    }


PRESETS = [path.stem for path in sorted((bundled_configs() / "methods").glob("*.yaml")) if path.stem not in OBJECTIVES]


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_in_full(name: str) -> None:
    """Whatever its file has beside the objective is told, with the objective's formula and its arguments in force."""
    told, file = call("methods", name).stdout, bundled_configs() / f"methods/{name}.yaml"
    values, text = yaml.safe_load(file.read_text()), file.read_text()
    objective = values["train"]["objective"]
    assert told.startswith(f"{name}: {text.splitlines()[0][2:]}\n")
    assert (inspect.getdoc(objective_function(objective["name"])) or "").splitlines()[0] in told
    assert all(f"https://arxiv.org/abs/{number}" in told for number in re.findall(r"^# Paper:.*arXiv:(\S+)", text, re.MULTILINE))
    keys = [f"{section}.{key}=" for section in values if section not in ("base", "run") for key in values[section] if key != "objective"]
    assert [key for key in keys if key not in told] == [] and bool(keys) != ("adds                nothing" in told)
    arguments = {**defaults(objective["name"]), **objective}
    assert all(f"{key}={value!r}" in told for key, value in arguments.items() if key != "name")
    assert f"configs/methods/{name}.yaml" in told and f"diffalign methods {objective['name']}" in told


def test_a_preset_says_what_its_parts_do() -> None:
    assert len(PRESETS) >= 16
    told = call("methods", "winner_safeguard").stdout
    assert "λ" in told and "winner's error does not rise" in told
    assert "train.noising={name: ddim_inversion, steps: 10" in call("methods", "inpo").stdout
    assert "beta (default: 5000.0)" in call("methods", "tango2").stdout
    refused = call("methods", "tdpo11", status=1).stderr
    assert "did you mean 'tdpo1'?" in refused and "or a preset: " in refused


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_s_needs_and_its_own_beta_elsewhere(name: str) -> None:
    """Of the reference as much as objective and stabilisers read, and β as the file has it, not the objective's default."""
    told, train = call("methods", name).stdout, yaml.safe_load((bundled_configs() / f"methods/{name}.yaml").read_text())["train"]
    needs = OBJECTIVES[train["objective"]["name"]]
    rows = "triples" if name == "triple_po" else needs.rows
    assert re.search(rf"^rows +{rows}: .*pair\.rule", told, re.MULTILINE)
    reads = "prediction" if "kl_correction" in train.get("stabilisers", {}) else needs.reference
    what = {None: "none: no forward", "error": "its error alone; of", "prediction": "its whole prediction"}[reads]
    assert re.search(rf"^reference +{what}", told, re.MULTILINE) and all(f"reads               {each}: " in told for each in needs.reads)
    beta = train["objective"].get("beta")
    assert ("in other projects' terms" in told) == (beta is not None) and (beta is None or f"\nβ = {beta:g}, " in told)
    assert ("β_LM = β / (2κ)" in told) == (beta is not None)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tdpo1", ["its whole prediction, for kl_correction (train.reference_errors: live); of the frozen base", "β / 2 = 250"]),
        ("tdpo2", ["its whole prediction, for kl_correction"]),
        ("triple_po", ["triples: a gold sample, then winner and loser; pair.rule: ranked_list with pair.length: 3", "β = 150, of errors"]),
        ("inpo", ["runs                the policy, without gradient, from each sample to its x_t; train.noising.network: policy or ref"]),
        (
            "curry_dpo",
            ["gap: of a row's first and last score", "pair.by: the reward.dimension", "of the policy as the stage of train.order found"],
        ),
        ("adpo_ema", ["of a moving average of the policy", "scores: a score of each sample; train.scores: ["]),
        ("adpo_on_policy", ["of the policy as it is, without gradient"]),
        ("tango2", ["own_vs_rest, pareto or imported"]),
        ("winner_safeguard", ["as Diffusion-DPO does with β = 500, on the loser λ times as hard; in other"]),
        # By hand: hinge's slope in m is 1, twice that of DPO; CRPO adds a slope of 1 in e_w alone, 2 of β; EXO's is ¼·ln((1 − α)/α).
        ("slic", ["with β = 1000; in", "β / 2 = 500"]),
        ("crpo", ["with β = 502; in"]),
        ("exo", [f"with β = {500 * math.log(0.999 / 0.001) / 2:g}; in"]),
    ],
)
def test_a_preset_tells_what_its_parts_ask_for(name: str, told: list[str]) -> None:
    said = call("methods", name).stdout
    assert [each for each in told if each not in said] == []
    assert name != "triple_po" or "\nrows                pairs" not in said


def test_the_beta_of_other_forms() -> None:
    told = call("methods", "diffusion_dpo").stdout
    assert re.search(r"sum form.*βTω = β / \(2N\)", told) and re.search(r"D3PO, SPO, LPO.*β·σ_step²", told)
    assert re.search(r"Curriculum-DPO.*β = 5000\b", told)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("diffusion_dpo", ["https://arxiv.org/abs/2311.12908", "beta=5000.0", "0.693147", "β / 2 = 2500", "β / N", "a scale-free link"]),
        ("diffusion_kto", ["β / 2 = 1000", "a reward of 1 is a drift of 2/β", "pair.rule: labelled"]),
        ("capo", ["CaPO, as its paper writes it", "train.scores"]),
        ("smpo", ["scores: a score of each sample", "win_probability: P(first preferred)"]),
        ("mapo", ["no forward of a reference", "it acts as β = steps·scale, 500"]),
        ("dspo", ["https://openreview.net/forum?id=xyfb9HHvMe", "its whole prediction"]),
        ("densedpo", ["segment_labels: 1, −1 or 0", "β / 2 = 500"]),
        ("fdpo", ["by κ first"]),
    ],
)
def test_a_method_gives_what_it_needs_and_its_beta(name: str, told: list[str]) -> None:
    said = call("methods", name).stdout
    assert [each for each in told if each not in said] == []


def test_a_beta_on_errors_as_they_are_is_no_diffusion_dpo_s() -> None:
    assert "Diffusion-DPO, Tango 2" in call("methods", "rpo").stdout and "Diffusion-DPO, Tango 2" not in call("methods", "simpo").stdout
    assert "Diffusion-KTO  " not in call("methods", "rpo").stdout
    assert "choose one of: diffusion_dpo" in call("methods", "dpoo", status=1).stderr


def test_a_beta_elsewhere_is_the_one_that_pulls_as_hard() -> None:
    """By hand at the default β: Diffusion-DPO's slope in the margin is ½, and −(β/2) in each error."""
    slopes = {  # of the loss: down in r_w, up in r_l
        "diffusion_dpo": (1 / 2, 1 / 2), "cdpo": (0.4, 0.4), "ipo": (1, 1), "hinge": (1, 1), "nca": (1 / 4, 1 / 4), "bco": (1 / 2, 1 / 2),
        "apo_zero": (1 / 4, 1 / 4), "apo_down": (0, 1 / 4), "tgdpo": (1 / 2, 1 / 2), "sparsepo": (1 / 2, 1 / 2),
    }  # fmt: skip
    for name, (winner, loser) in slopes.items():
        beta = defaults(name)["beta"] * (winner + loser)
        said = call("methods", name).stdout
        assert pull(name, {}) == pytest.approx(beta), name
        assert f"as Diffusion-DPO does with β = {beta:g}; in" in said and f"β / 2 = {beta / 2:g}" in said
    for name, why in (("rankdpo", "depends on its scores"), ("kto", "or labels"), ("simpo", "without a reference")):
        assert pull(name, {}) is None and why in call("methods", name).stdout
    against = call("methods", "discopop").stdout  # its bump around 0 turns the slope around
    assert "against the labels" in against and "Diffusion-DPO, Tango 2" not in against


def test_a_method_names_its_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "methods").mkdir()
    for name, text in {
        "a": "{objective: ipo}",
        "b": "{objective: {name: ipo, beta: 3}}",
        "c": "{objective: nca}",
        "d": "{steps: 3}",
    }.items():
        (tmp_path / "methods" / f"{name}.yaml").write_text(f"train: {text}", encoding="utf-8")
    monkeypatch.setattr(pipelines.methods_table, "bundled_configs", lambda: tmp_path)
    said = {
        name: re.findall(r"configs/methods/(\w)\.yaml", call("methods", name).stdout) for name in ("ipo", "nca", "diffusion_dpo", "rpo")
    }
    assert said == {"ipo": ["a", "b"], "nca": ["c"], "diffusion_dpo": ["d"], "rpo": []}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("step", "stepz=3"), "unknown key 'stepz' (did you mean 'steps'?); known here: backbone"),
        (("stride",), "unknown bench 'stride'; choose one of: step"),
        (("step", "steps=abc"), "error: steps: got 'abc'; input should be a valid integer"),
        (("step", "steps=1"), "steps: got 1; input should be greater than or equal to 2"),
        (("step", "batch_size=0"), "batch_size: got 0; input should be greater"),
        (("step", "lora.rank=3"), "lora: got {'rank': 3}; input should be a valid boolean"),
        (("objectives", "latents=[4,8,8]"), "give the seconds of the other model's bare step and of one of its forwards"),
        (("step", "objective=foo"), "unknown objective 'foo'; choose one of: diffusion_dpo"),
    ],
)
def test_bench_settings_are_checked(words: tuple[str, ...], told: str) -> None:
    said = call("bench", *words, status=1).stderr
    assert told in said and "pydantic" not in said


def test_a_file_in_place_of_the_run_is_named(config: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    said = call("run", config, f"run={tmp_path / 'file'}", status=1).stderr
    assert f"'{tmp_path / 'file'}' is a file where a folder is needed" in said and "run=..." in said
    assert (tmp_path / "file").read_text() == "mine"


def test_a_config_for_pretraining_alone_says_which_command_takes_it(tmp_path: Path) -> None:
    assert "diffalign pretrain CONFIG" in call("run", "worlds/shapes", f"run={tmp_path}", status=1).stderr


def test_nothing_is_printed_to_a_closed_pipe(config: str) -> None:
    if os.name == "nt":
        pytest.skip("pipes differ")
    command = f"{sys.executable} -m pipelines.cli rewards | true"
    told = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Traceback" not in told.stderr
