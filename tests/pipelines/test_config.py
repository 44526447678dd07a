from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import ROAD, STAGES
from pipelines.config import Config, Model, load_config, section_class
from pipelines.config_file import bundled_configs, config_path, read_override

BASE = """
run: runs/test
model: {source: owner/name}
generate: {prompts: {texts: [a red circle]}}
score: {rewards: {shapes: {}, sharpness: }}
pair: {by: shapes.score}
"""


def write(tmp_path: Path, text: str = BASE) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ValueError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_sections_of_the_file_are_the_road(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    assert config.road == ("generate", "score", "pair")
    assert config.score.rewards == {"shapes": {}, "sharpness": {}}
    assert config.generate.steps == (20,)


def test_resolved_yaml_gives_the_same_config(tmp_path: Path) -> None:
    config = load_config(write(tmp_path), ["generate.steps=[10, 20]", "generate.size=[64, 32]", "encode={}", "train.steps=3"])
    again = load_config(write(tmp_path, config.to_yaml()))
    assert again == config


def test_overrides_are_typed_by_yaml(tmp_path: Path) -> None:
    config = load_config(write(tmp_path), ["seed=7", "generate.guidance=[1, 1e1]", "model.revision=null", "generate.prompts.texts=[a, b]"])
    assert (config.seed, config.generate.guidance, config.generate.prompts.texts) == (7, (1.0, 10.0), ("a", "b"))


def test_the_home_of_the_run_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = load_config(write(tmp_path), ["run=~/mine"])
    assert config.run == tmp_path / "home/mine" and load_config(write(tmp_path, config.to_yaml())) == config


def test_scientific_notation_without_a_point_is_a_number() -> None:
    assert read_override("train.learning_rate=1e-4") == (["train", "learning_rate"], 1e-4)


def test_empty_section_means_defaults_and_null_override_removes_it(tmp_path: Path) -> None:
    path = write(tmp_path, BASE + "encode:\n")
    assert load_config(path).encode is not None
    assert load_config(path, ["encode=null"]).encode is None
    assert load_config(path, ["train.lora=null"]).train.lora is None  # no adapter, not one with the defaults
    assert load_config(path, ["train.lora={}"]).train.lora.rank == 16


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sed=1", "unknown key 'sed' (did you mean 'seed'?); known here: base, encode"),
        ("generate.step=1", "unknown key 'generate.step' (did you mean 'steps'?)"),
        ("generate.prompts.textz=[a]", "unknown key 'generate.prompts.textz' (did you mean 'texts'?)"),
        ("run=''", "run: got '', a folder for the run is needed, for example run: runs/mine"),
        ("run='  '", "run: got '  ', a folder"),
        ("run=", "run: got None"),
        ("run=~nobody-of-this-name/x", "run: got '~nobody-of-this-name/x'"),
        ("seed=-1", "seed: got -1"),
        ("seed=true", "seed: got True, a number is needed"),
        ("generate.prompts={world: shapes, count: true}", "count: got True, a number is needed"),
        ("generate.steps=true", "generate.steps: got True, a number is needed"),
        ("generate.size=[true, 8]", "generate.size: got [True, 8], a number is needed"),
        ("train.micro_batch_size=true", "train.micro_batch_size: got True, a number is needed"),
        ("train.clip_norm=true", "train.clip_norm: got True, a number is needed"),
        ("train.lora={rank: true}", "rank: got True, a number is needed"),
        ("train.adam_betas=[true, 0.9]", "got [True, 0.9], a number is needed"),
        ("pair.maximum_gap=true", "pair.maximum_gap: got True, a number is needed"),
        ("pair.by={shapes.score: true}", "pair.by: got {'shapes.score': True}, a number is needed"),
        ("pretrain={world: shapes, denoiser: {steps: true}}", "denoiser.steps: got True, a number is needed"),
        ("pretrain={world: shapes, denoiser: {learning_rate: .inf}}", "denoiser.learning_rate: got inf"),
        ("generate.samples_per_prompt=0", "generate.samples_per_prompt: got 0; input should be greater than or equal to 1"),
        ("generate.samples_per_prompt=many", "generate.samples_per_prompt: got 'many'"),
        ("generate.steps=[20, 0]", "generate.steps.1: got 0"),
        ("generate.steps=[]", "generate.steps"),
        ("generate.guidance=.nan", "generate.guidance.0: got nan"),
        ("generate=7", "generate: got 7, a section (key: value lines) is needed, with keys of: prompts"),
        ("model.dtype=int8", "model.dtype: got 'int8'; input should be 'float32', 'bfloat16' or 'float16'"),
        ("model={}", "model.source is missing"),
        ("generate.prompts={}", "give exactly one of world, file, hub and texts; got none of them"),
        ("generate.prompts.world=shapes", "got world and texts"),
        ("generate.prompts={world: shapes}", "need a count"),
        ("generate.prompts={world: shape, count: 3}", "unknown world 'shape'; choose one of: shapes"),
        ("generate.prompts={file: prompts.docx}", "known endings: .txt, .jsonl, .json, .csv, .tsv, .parquet"),
        ("score.rewards.sharpnes={}", "unknown reward 'sharpnes' (did you mean 'sharpness'?)"),
        ("score.rewards.sharpness={radius: 3}", "reward 'sharpness' has no setting 'radius'"),
        ("score.rewards={../x: {reward: shapes}}", "reward name '../x' becomes a folder"),
        ("score.rewards={sharpness: {reward: jpeg_size}}", "reward 'sharpness' is set to be 'jpeg_size', but"),
        ("score.rewards={}", "score.rewards"),
        ("pair.by=shapes.scor", "pair reads 'shapes.scor', which reward 'shapes' does not give; choose one of: shapes.objects"),
        ("pair.by=contrast.score", "score.rewards has no 'contrast'; it has: shapes, sharpness"),
        ("pair.rule=best", "pair.rule: got 'best'"),
        ("evaluate={prompts: {texts: [a]}, size: [[64, 32], [64, 32]]}", "evaluate.size has a size twice: [[64, 32], [64, 32]]"),
        ("pair.minimum_gap=-1", "minimum_gap is -1"),
        ("pair={rule: imported}", "needs a set"),
        ("pair={source: {importer: pickapik, path: x}}", "unknown importer 'pickapik' (did you mean 'pickapic'?)"),
        ("pair={source: {importer: pickapic, path: x, splitt: a}}", "has no setting 'splitt' (did you mean 'split'?)"),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(tmp_path: Path, override: str, told: str) -> None:
    assert told in refusal(write(tmp_path), override)


@pytest.mark.parametrize("control", ["pair.swap_labels=true", "pair.flip_share=0.2", "pair.rule=random"])
def test_a_control_that_would_change_nothing_is_refused(control: str, tmp_path: Path) -> None:
    """Scores that are looked up by sample go with the samples: turned around, a list is ranked as before."""
    path = write(tmp_path, BASE + "encode:\ntrain: {objective: smpo, scores: [shapes.score]}\n")
    assert f"{control} turns samples around, and objective 'smpo' ranks them by train.scores ['shapes.score']" in refusal(path, control)
    assert "rankdpo" in refusal(path, control, "train.objective=rankdpo")
    load_config(path, [control, "train.scores=[]"])
    load_config(path, [control, "train.objective=madpo"])  # scores weigh, and labels judge


@pytest.mark.parametrize(
    ("override", "told"),
    [("train.steps", "write key=value"), ("=3", "write key=value"), ("a..b=3", "write key=value"), ("seed.x=1", "seed is 0, not a section"),
     ("seed=[1", "not readable YAML")],
)  # fmt: skip
def test_unreadable_overrides_are_refused(tmp_path: Path, override: str, told: str) -> None:
    assert told in refusal(write(tmp_path, BASE + "seed: 0\n"), override)


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    told = refusal(write(tmp_path), "sed=1", "generate.step=1", "model.device=tpu")
    assert all(part in told for part in ("'sed'", "'generate.step'", "model.device"))


@pytest.mark.parametrize(
    ("text", "told"),
    [("run: [", "not readable YAML"), ("- a\n- b", "holds list, not a mapping"), ("", "holds NoneType"),
     ("run: a\nrun: b", "'run' is given twice"),
     ("run: !!python/object:os.system x", "not readable YAML")],
)  # fmt: skip
def test_unreadable_files_are_refused(tmp_path: Path, text: str, told: str) -> None:
    assert told in refusal(write(tmp_path, text))


def test_bundled_configs_go_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_path("quickstart") == config_path("configs/quickstart.yaml") == bundled_configs() / "quickstart.yaml"
    with pytest.raises(FileNotFoundError, match=r"did you mean 'quickstart'.*bundled: "):
        config_path("quikstart")


@pytest.mark.parametrize("name", sorted(path.relative_to(bundled_configs()).as_posix() for path in bundled_configs().rglob("*.yaml")))
def test_every_bundled_config_parses(name: str) -> None:
    assert isinstance(load_config(bundled_configs() / name), Config)


def test_every_stage_has_its_section() -> None:
    for name in STAGES:
        assert section_class(name).__name__ == name.capitalize()
        assert name in Config.model_fields
    assert (*ROAD, "pretrain") == tuple(STAGES)


def test_reading_a_config_does_not_import_torch() -> None:
    code = "import sys; import pipelines.config, pipelines.stage, pipelines.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_weights_are_recognised_by_content_and_hub_ids_by_revision(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"1234")
    before = Model(source=str(folder)).fingerprint()
    (folder / "a.safetensors").write_bytes(b"1235")
    assert Model(source=str(folder)).fingerprint() != before
    assert Model(source="owner/name", revision="v1").fingerprint() == "owner/name@v1"
    for missing in ("./nothing", "weights.safetensors", "/no/where", "bundled:nothing"):
        with pytest.raises(FileNotFoundError, match=r"bundled"):
            Model(source=missing).fingerprint()
