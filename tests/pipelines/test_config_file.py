"""A config over its base: what merges, what is replaced, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.config import load_config
from pipelines.config_file import lay_over, read_config

BASE = """
run: runs/base
seed: 3
model: {source: owner/name, dtype: float32}
generate: {prompts: {texts: [a red circle]}, steps: [10, 20]}
train:
  objective: {name: rpo, beta: 150, sft: 0.4}
  noising: {name: ddim_inversion, steps: 5}
  timesteps: [0.3, 1.0]
  steps: 40
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    write("base.yaml", BASE)
    return write


def test_mappings_merge_key_by_key_and_anything_else_is_replaced(write) -> None:
    config = load_config(write("child.yaml", "base: base.yaml\nrun: runs/child\ngenerate: {steps: [5]}\ntrain: {steps: 50}\nencode:\n"))
    assert (config.run, config.seed, config.model.source) == (Path("runs/child"), 3, "owner/name")
    assert (config.generate.steps, config.generate.prompts.texts) == ((5,), ("a red circle",))
    assert (config.train.steps, config.train.timesteps) == (50, (0.3, 1.0))
    assert config.train.objective == {"name": "rpo", "beta": 150, "sft": 0.4, "relative": True}
    assert config.road == ("generate", "encode", "train")


@pytest.mark.parametrize(
    ("child", "objective"),
    [
        ("{name: cdpo, flip_rate: 0.2}", {"name": "cdpo", "beta": 5000, "flip_rate": 0.2}),  # no β of rpo's, and no sft
        ("ipo", {"name": "ipo", "beta": 500}),
        ("{name: rpo, sft: 1.0}", {"name": "rpo", "beta": 150, "sft": 1.0, "relative": True}),
        ("{beta: 300}", {"name": "rpo", "beta": 300, "sft": 0.4, "relative": True}),
    ],
)
def test_arguments_belong_to_the_name_of_an_objective(write, child: str, objective: dict) -> None:
    assert load_config(write("child.yaml", f"base: base.yaml\ntrain: {{objective: {child}}}\n")).train.objective == objective


def test_arguments_belong_to_the_name_of_a_noising_and_of_an_importer(write) -> None:
    child = write("child.yaml", "base: base.yaml\ntrain: {noising: {name: renoise_inversion, network: reference}}\n")
    assert load_config(child).train.noising == {"name": "renoise_inversion", "network": "reference"}
    under = {"source": {"importer": "pickapic", "path": "a", "split": "test"}, "ties": "drop"}
    over = {"source": {"importer": "two_folders", "path": "b"}}
    assert lay_over(over, under) == {"source": {"importer": "two_folders", "path": "b"}, "ties": "drop"}
    assert lay_over({"source": {"path": "b"}}, under)["source"] == {"importer": "pickapic", "path": "b", "split": "test"}


def test_neither_side_is_changed() -> None:
    over, under = {"a": {"x": 1}}, {"a": {"y": 2}}
    assert lay_over(over, under) == {"a": {"x": 1, "y": 2}}
    assert (over, under) == ({"a": {"x": 1}}, {"a": {"y": 2}})


def test_a_base_may_have_a_base_and_each_is_relative_to_the_file_that_names_it(write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("families/middle.yaml", "base: ../base.yaml\nseed: 4\ntrain: {steps: 60}\n")
    child = write("methods/child.yaml", "base: ../families/middle.yaml\ntrain: {batch_size: 8}\n")
    elsewhere = write("elsewhere/base.yaml", "run: runs/elsewhere\n").parent
    monkeypatch.chdir(elsewhere)
    config = load_config(child)
    assert (config.run, config.seed, config.train.steps, config.train.batch_size) == (Path("runs/base"), 4, 60, 8)


def test_a_base_may_be_a_bundled_config(write) -> None:
    config = load_config(write("child.yaml", "base: quickstart\ntrain: {steps: 7}\n"))
    assert config.train.steps == 7
    assert config == load_config("quickstart", ["train.steps=7"])


def test_the_resolved_config_has_no_base(write) -> None:
    config = load_config(write("child.yaml", "base: base.yaml\ntrain: {steps: 50}\n"))
    assert "base" not in yaml.safe_load(config.to_yaml())
    assert load_config(write("resolved.yaml", config.to_yaml())) == config


def test_an_override_swaps_the_base_and_the_others_come_after(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = write("methods/child.yaml", "base: ../base.yaml\ntrain: {objective: {name: ipo, beta: 80}}\n")
    write("real.yaml", "run: runs/real\nmodel: {source: owner/real}\ntrain: {steps: 9}\n")
    monkeypatch.chdir(tmp_path)  # a path of the command line is relative to where it runs
    config = load_config(child, ["train.steps=11", "base=real.yaml"])
    assert (config.run, config.model.source, config.seed, config.train.steps) == (Path("runs/real"), "owner/real", 0, 11)
    assert config.train.objective == {"name": "ipo", "beta": 80}
    assert config.train.timesteps == (0.0, 1.0)  # nothing is left of the base that the file names
    assert load_config(tmp_path / "real.yaml", ["base=base.yaml"]).seed == 3  # a file without a base gets one
    assert read_config(child, ["base=null"])[0] == {"train": {"objective": {"name": "ipo", "beta": 80}}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("base: child.yaml\n", r"a config is its own base: \S*child.yaml → \S*child.yaml; remove"),
        ("base: loop.yaml\n", r"a config is its own base: \S*child.yaml → \S*loop.yaml → \S*child.yaml; remove"),
        ("base: 3\n", r"child.yaml: base is 3; give the path of a YAML file, relative to this one"),
        ("base: [base.yaml]\n", r"child.yaml: base is \['base.yaml'\]; give"),
        ("base: ''\n", r"child.yaml: base is ''; give"),
        ("base: list.yaml\n", r"child.yaml over \S*list.yaml holds list, not a mapping"),
        ("base: broken.yaml\n", r"child.yaml over \S*broken.yaml is not readable YAML"),
        ("base: base.yaml\nsed: 1\n", r"child.yaml over \S*base.yaml:\nunknown key 'sed'"),
        ("baze: base.yaml\n", r"unknown key 'baze' \(did you mean 'base'\?\)"),
        ("base: base.yaml\ntrain: {base: quickstart}\n", r"unknown key 'train.base'"),
    ],
)
def test_mistakes_name_the_files(write, text: str, told: str) -> None:
    write("loop.yaml", "base: child.yaml\n")
    write("list.yaml", "- a\n- b\n")
    write("broken.yaml", "run: [\n")
    with pytest.raises(ValueError, match=told):
        load_config(write("child.yaml", text))


def test_a_base_that_is_not_there_is_told_with_the_file_that_names_it(write) -> None:
    child = write("child.yaml", "base: quikstart\n")
    with pytest.raises(FileNotFoundError, match=r"child.yaml has the base 'quikstart': no config .*did you mean 'quickstart'"):
        load_config(child)
    with pytest.raises(FileNotFoundError, match=r"child.yaml has the base 'nothing.yaml': no config 'nothing.yaml'"):
        load_config(child, ["base=nothing.yaml"])
