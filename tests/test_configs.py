"""Every config that ships: it parses and builds, says what it reproduces at what cost, and the commands in its header are commands."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from diffalign.backbones import BACKBONES
from diffalign.data.pairing import RULES
from diffalign.data.pairing_settings import LIMITS
from diffalign.objectives import OBJECTIVES, defaults
from diffalign.training.groups import KINDS
from pipelines import STAGES, rounds
from pipelines.compare import read_words
from pipelines.compare_agreement import check_agreement
from pipelines.config import load_config
from pipelines.config_file import bundled_configs
from pipelines.score import declared_dimensions
from pipelines.train import section_of
from reward_models.worlds import WORLDS, load_world

CONFIGS = sorted(bundled_configs().rglob("*.yaml"))
METHODS = [path for path in CONFIGS if path.parent.name == "methods"]
OF_CLIPS = {"densedpo"}  # segments are of time: their world is the motion world, their comparison configs/motion
OF_WORLDS = [path for path in CONFIGS if path.parent.name in ("motion", "tones")]  # over the quickstart of that name
OF_PICTURES = [path for path in METHODS if path.stem not in OF_CLIPS]
HEADER = ("Paper", "Command", "Hardware", "Time", "Expected")


def name_of(path: Path) -> str:
    return path.relative_to(bundled_configs()).with_suffix("").as_posix()


def header_of(path: Path, *, strip: bool = True) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    said = [line.removeprefix("#") for line in lines[:end]]
    return [line.strip() for line in said] if strip else said


def commands_of(path: Path, names: Sequence[str] = ("run", "bench", *STAGES)) -> list[list[str]]:
    """The diffalign commands in a header, as words: also behind accelerate, one a side of &&, with the lines that go on with settings."""
    found = []
    for line in re.sub(r"\n +(?=[\w.]+=\S|configs/\S)", " ", "\n".join(header_of(path, strip=False))).split("\n"):
        for part in re.sub(r"^ ?Command:", "", line).split("&&"):
            match = re.match(r"\s*(?:accelerate launch .*-m pipelines\.cli|diffalign) ((?:" + "|".join(names) + r") .*)", part)
            if match:
                found.append(shlex.split(match[1]))
    return found


def files_of(word: str) -> list[str]:
    """What a shell makes of a pattern of configs; any other word is itself."""
    matches = sorted(map(str, bundled_configs().glob(word.removeprefix("configs/")))) if "=" not in word and "*" in word else []
    return matches or [word]


def test_there_are_configs() -> None:
    assert {"quickstart", "sd15_diffusion_dpo", "own_pairs_lora", "worlds/shapes"} <= {name_of(path) for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_it_parses_and_its_resolved_form_gives_the_same(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert config.road or config.pretrain is not None
    resolved = tmp_path / "config.yaml"
    resolved.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(resolved) == config
    assert load_config(name_of(path)) == config


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_the_header_says_what_it_is(path: Path) -> None:
    header = header_of(path)
    assert header and header[0].endswith("."), "the first line is a sentence that says what the config does"
    for label in HEADER:
        [line] = [line for line in header if line.startswith(f"{label}:")]
        assert len(line) > len(label) + 10, line


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_the_commands_of_the_header_name_this_config_and_known_settings(path: Path) -> None:
    commands = commands_of(path)
    assert commands, "the header has no `diffalign STAGE CONFIG` command"
    for stage, config, *overrides in commands:
        assert config.removeprefix("configs/").removesuffix(".yaml") == name_of(path)
        built = load_config(config, overrides)
        assert stage == "run" or getattr(built, stage) is not None


@pytest.mark.parametrize("path", METHODS, ids=name_of)
def test_the_first_command_trains_what_its_header_expects(path: Path) -> None:
    """At the β and rate that the comparison chose, of three seeds and more."""
    page = "motion" if path.stem in OF_CLIPS else "methods"
    chosen = json.loads((bundled_configs() / page / "compare.json").read_text(encoding="utf-8"))["methods"][path.stem]
    assert len(chosen["seeds"]) >= 3
    _, config, *overrides = commands_of(path)[0]
    built = section_of(load_config(config, overrides))
    assert (built.objective.get("beta"), built.learning_rate) == pytest.approx((chosen["beta"], chosen["learning_rate"]))


@pytest.mark.parametrize("path", [path for path in CONFIGS if commands_of(path, ["rounds"])], ids=name_of)
def test_rounds_of_the_header_are_of_a_config_with_every_stage_of_a_round(path: Path) -> None:
    for _, config, option, count, *overrides in commands_of(path, ["rounds"]):
        assert config == f"configs/{name_of(path)}.yaml" and (option, int(count)) == ("--count", 3)
        built = load_config(config, overrides)
        assert all(getattr(built, stage) is not None for stage in rounds.EACH)


def test_crpo_has_rounds_in_its_headers() -> None:
    assert all(commands_of(bundled_configs() / folder / "crpo.yaml", ["rounds"]) for folder in ("methods", "tones"))


@pytest.mark.parametrize("path", [path for path in CONFIGS if commands_of(path, ["compare"])], ids=name_of)
def test_a_comparison_of_the_header_is_of_configs_that_can_be_compared(path: Path) -> None:
    for _, *words in commands_of(path, ["compare"]):
        roads, settings = read_words([each for word in words for each in files_of(word)])
        check_agreement(roads, own_data=settings.own_data)
        rivals = {f"{settings.against}{road.variant}" for road in roads} | {settings.against}  # in the same variant, or as it is called
        assert rivals & {road.name for road in roads} and len(roads) > 1


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_a_misspelt_key_is_refused_in_every_section(path: Path) -> None:
    sections = [key for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items() if isinstance(value, dict)]
    for section in sections:
        with pytest.raises(ValueError, match=f"unknown key '{section}.colour_of_the_sky'.*known here: "):
            load_config(path, [f"{section}.colour_of_the_sky=blue"])
    with pytest.raises(ValueError, match=r"unknown key 'modell' \(did you mean 'model'\?\); known here: .*evaluate"):
        load_config(path, ["modell=x"])


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_lines_are_readable(path: Path) -> None:
    assert not [number for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if len(line) > 140]


def test_the_comparison_s_config_expects_the_row_of_plain_diffusion_dpo() -> None:
    shared, row = (load_config(name) for name in ("compare", "methods/diffusion_dpo"))
    assert shared.model_copy(update={"run": row.run}) == row
    [expected] = [line for line in header_of(bundled_configs() / "compare.yaml") if line.startswith("Expected:")]
    assert "row diffusion_dpo in methods/README.md" in expected
    assert "`diffusion_dpo` |" in (bundled_configs() / "methods/README.md").read_text(encoding="utf-8")


def test_sd15_is_the_setting_of_the_release() -> None:
    """Wallace et al. 2023 and the launcher of its release: 5000 on the mean-reduced error, 1e-8 × 2048, 500 warm-up steps of 2000."""
    train = load_config("sd15_diffusion_dpo").train
    assert train.objective == {"name": "diffusion_dpo", "beta": 5000}
    assert train.learning_rate == pytest.approx(1e-8 * 2048)
    assert (train.batch_size, train.steps, train.warmup_steps, train.clip_norm, train.prompt_dropout) == (2048, 2000, 500, 1.0, 0.2)
    assert train.lora is None and train.schedule == "constant"
    for processes in (1, 2, 4, 8, 16):  # the batch divides, whatever a user launches
        assert train.batch_size % (train.micro_batch_size * processes) == 0
    encode, pair = load_config("sd15_diffusion_dpo").encode, load_config("sd15_diffusion_dpo").pair
    assert encode.posterior == "sample" and encode.size == (512, 512)
    assert pair.rule == "imported" and pair.ties == "drop" and not pair.same_source


@pytest.mark.parametrize(("family", "beta", "steps"), [("sd15", 2000, 5), ("sdxl", 5000, 10)])
def test_smpo_and_inpo_are_the_settings_of_their_releases(family: str, beta: float, steps: int) -> None:
    """Lu et al. 2025, arXiv:2506.02698 and arXiv:2503.18454; scores range as our PickScore does: exp(logit_scale)·cos."""
    smpo, inpo, base = (load_config(f"{family}_{name}") for name in ("smpo", "inpo", "diffusion_dpo"))
    assert smpo.train.objective == {"name": "smpo", "beta": beta, "gamma": 10.0, "low": 11.5435, "high": 28.2016}
    assert smpo.train.objective == {"name": "smpo", **defaults("smpo"), "beta": beta} and smpo.train.scores == ("pick_score.score",)
    assert smpo.train.noising == {"name": "renoise_inversion", "steps": steps, "network": "policy", "grid": "exact"}
    assert (smpo.train.batch_size, smpo.train.steps, smpo.train.warmup_steps, smpo.train.learning_rate) == (1024, 200, 100, 1.02e-5)
    assert inpo.train.objective == {"name": "diffusion_dpo", "beta": beta}
    assert inpo.train.noising == {"name": "ddim_inversion", "steps": 10, "eta": 0.1, "network": "policy", "grid": "exact"}
    assert (inpo.train.batch_size, inpo.train.steps, inpo.train.warmup_steps) == (1024, 400, 200)
    assert inpo.train.learning_rate == pytest.approx(1e-8 * 1024)
    assert smpo.model == inpo.model == base.model and smpo.pair == inpo.pair == base.pair


def test_diffusion_kto_has_the_share_of_wanted_samples_of_its_release() -> None:
    """Li et al. 2024, arXiv:2404.04465: positive_ratio 0.8 in exps/example.sh; on pictures that are imported too. kto has all rows."""
    kto_csv = ["base=configs/sd15_diffusion_dpo.yaml", "pair.rule=imported", "pair.by=null", "pair.threshold=null"]
    for overrides in ([], [*kto_csv, "pair.source.importer=kto_csv", "pair.source.path=/data/kto.csv"]):
        assert load_config("methods/diffusion_kto", overrides).pair.positive_share == 0.8
    own, others = load_config("methods/diffusion_kto").pair, load_config("methods/kto").pair
    assert own == others.model_copy(update={"positive_share": 0.8}) and others.positive_share is None


def test_sdxl_is_the_setting_of_the_paper_s_release() -> None:
    """The same source: β 5000, 1e-8 × 2048, 200 warm-up steps of 2000, Adafactor, pictures of 1024²."""
    config, small = load_config("sdxl_diffusion_dpo"), load_config("sd15_diffusion_dpo")
    train = config.train
    assert config.model.backbone == "sdxl" and train.objective == {"name": "diffusion_dpo", "beta": 5000}
    assert train.learning_rate == pytest.approx(1e-8 * 2048)
    assert (train.batch_size, train.steps, train.warmup_steps, train.clip_norm, train.prompt_dropout) == (2048, 2000, 200, 1.0, 0.2)
    assert train.optimizer == "adafactor" and train.lora is None and train.schedule == "constant"
    for processes in (1, 2, 4, 8, 16):
        assert train.batch_size % (train.micro_batch_size * processes) == 0
    assert config.encode.size == (1024, 1024) and config.evaluate.size == (config.encode.size,)
    assert config.pair == small.pair and config.encode.posterior == "sample"


def test_tango_2_is_sft_for_an_epoch_of_five_then_dpo_on_pairs_within_two_judges_limits() -> None:
    """Majumder et al. 2024, arXiv:2404.09956: the first judge's limits are the paper's; losers of wrong prompts by the header's command."""
    config, sounds = load_config("methods/tango2"), load_config("audio_alpaca_tango")
    for each in (config, sounds):
        assert each.train.sft_steps * 5 == each.train.steps and each.train.objective["name"] == "diffusion_dpo"
        assert each.pair.rule == "own_vs_rest" and len(each.pair.thresholds) == 2
    assert config.pair.thresholds["shapes.score"] == sounds.pair.thresholds["clap_1.score"]
    assert sounds.model.source == "models/tango-full-ft-audiocaps", "which its baseline figures are of, and its launcher starts from"
    perturbed = [load_config(file, words) for _, file, *words in commands_of(bundled_configs() / "methods/tango2.yaml")]
    assert [each.generate.perturbed.count for each in perturbed if each.generate.perturbed] == [4]


def test_flows_train_an_adapter_at_a_beta_of_velocity_errors() -> None:
    """Liu et al. 2025 and what is reported beside: β 100 for Stable Diffusion 3.5, 500 for FLUX and videos; rank 32, α 64; 24 pairs."""
    betas = {
        "sd3_flow_dpo": 100,
        "flux_flow_dpo": 500,
        "sana_flow_dpo": 100,
        "flux2_flow_dpo": 100,
        "flux2_dev_flow_dpo": 100,
        "qwen_image_flow_dpo": 100,
        "qwen_image_edit_flow_dpo": 100,
        "qwen_image_edit_plus_flow_dpo": 100,
        "z_image_flow_dpo": 100,
        "wan_flow_dpo": 500,
        "ltx_flow_dpo": 500,
        "hunyuan_video_flow_dpo": 500,
        "hunyuan_video_image_to_video_flow_dpo": 500,
    }
    for name, beta in betas.items():
        config = load_config(name)
        assert config.train.objective == {"name": "diffusion_dpo", "beta": beta}
        assert (config.train.lora.rank, config.train.lora.alpha, config.train.batch_size, config.train.learning_rate) == (32, 64, 24, 1e-5)
    assert load_config("flux_flow_dpo").model.settings == {"guidance": 1.0}


def test_no_header_denies_a_shift_that_training_has() -> None:
    """Of families whose noise levels follow the size in training too."""
    shifted = {name for name in BACKBONES if "shift_by_size(" in inspect.getsource(import_module(f"diffalign.backbones.{name}"))}
    headers = [" ".join(header_of(path)) for path in CONFIGS if load_config(path).model.backbone in shifted]
    assert shifted == {"flux_kontext", "ltx", "ltx_image_to_video"} and len(headers) == 3
    assert not [header for header in headers if re.search("without shift|in sampling alone|sampling shifts", header)]


def test_cogvideox_has_videodpo_s_beta() -> None:
    """Liu et al. 2024, arXiv:2412.14167: β 5000, on errors of v here."""
    assert load_config("cogvideox_diffusion_dpo").train.objective == {"name": "diffusion_dpo", "beta": 5000}


@pytest.mark.parametrize(
    ("name", "rate", "time"),
    [
        ("wan_flow_dpo", 16, 4),
        ("ltx_flow_dpo", 25, 8),
        ("cogvideox_diffusion_dpo", 8, 4),
        ("hunyuan_video_flow_dpo", 24, 4),
        ("hunyuan_video_image_to_video_flow_dpo", 24, 4),
    ],
)
def test_clips_of_videos_are_whole_latents_that_sixteen_frames_at_ten_a_second_have(name: str, rate: int, time: int) -> None:
    """A shorter source would be refused: the last frame that is read lies within the clip."""
    config = load_config(name)
    frames, height, width = config.encode.size
    assert config.evaluate.size == (config.encode.size,) and frames % time == 1 and height % 16 == width % 16 == 0
    assert round((frames - 1) * 10 / rate) < 16


def test_every_family_has_a_config_on_a_set_that_exists_whose_adapter_is_the_family_s() -> None:
    """Of its own weights, by the name of the family or of a model of it: configs/FAMILY_METHOD.yaml."""
    found = {path: load_config(path) for path in CONFIGS if path.parent == bundled_configs()}
    real = {path: config for path, config in found.items() if config.pair.source is not None}
    assert {config.model.backbone for config in real.values()} == set(BACKBONES)
    for path, config in real.items():
        assert path.stem.startswith((config.model.backbone, "sd15", "own_pairs")), path
        lora = section_of(config).lora
        assert lora is None or lora.targets == BACKBONES[config.model.backbone].lora_targets


@pytest.mark.parametrize("path", [path for path in CONFIGS if "tiny models only" in " ".join(header_of(path))], ids=name_of)
def test_the_test_that_ran_a_config_on_tiny_models_names_it(path: Path) -> None:
    [file] = re.findall(r"tiny models only \(([\w/]+\.py)\)", " ".join(header_of(path)))
    assert f'"{name_of(path)}"' in (bundled_configs().parent / file).read_text(encoding="utf-8")


def test_tango_2_on_its_released_pairs_trains_as_on_own_samples() -> None:
    released, own = load_config("tango_diffusion_dpo"), load_config("audio_alpaca_tango")
    assert released.model == own.model and released.train == own.train and released.pair.source.importer == "audio_alpaca"
    assert "tango_diffusion_dpo.yaml" in " ".join(header_of(bundled_configs() / "audio_alpaca_tango.yaml"))


def test_every_objective_has_the_method_of_its_name() -> None:
    assert set(OBJECTIVES) <= {path.stem for path in METHODS}


@pytest.mark.parametrize("path", METHODS, ids=name_of)
def test_a_method_says_all_arguments_of_the_objective_it_is_named_after_or_a_preset_of(path: Path) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    objective = values["train"]["objective"]
    assert set(objective) == {"name", *defaults(objective["name"])}
    presets = [line for line in header_of(path) if line.startswith("Preset:")]
    if path.stem == objective["name"]:
        assert not presets
    else:
        assert path.stem not in OBJECTIVES and presets[0].startswith(f"Preset:   of {objective['name']}")
    assert values["run"] == f"runs/methods/{path.stem}", "methods may run beside one another"


@pytest.mark.parametrize("path", OF_PICTURES, ids=name_of)
def test_a_method_is_one_of_the_comparison(path: Path) -> None:
    """The samples, the scores, the latents and the evaluation are those of configs/compare.yaml, and so is the budget."""
    config, shared = load_config(path), load_config("compare")
    for key in ("seed", "model", "generate", "score", "encode", "evaluate"):
        assert getattr(config, key) == getattr(shared, key), key
    for key in ("steps", "batch_size", "learning_rate", "schedule", "warmup_steps", "timesteps"):
        assert getattr(config.train, key) == getattr(shared.train, key), key


@pytest.mark.parametrize("path", OF_WORLDS, ids=name_of)
def test_a_config_of_a_world_is_compared_with_its_quickstart(path: Path) -> None:
    """Base, seed, prompts, scores, evaluation and budget are the quickstart's; clips are made as each asks, sounds as for Tango 2."""
    config, shared = load_config(path), load_config(f"quickstart_{path.parent.name}")
    for key in ("seed", "model", "score", "encode", "evaluate"):
        assert getattr(config, key) == getattr(shared, key), key
    if path.parent.name == "tones":
        assert config.generate == load_config("quickstart_tones" if path.stem == "swapped" else "tones/tango2").generate
    assert config.generate.prompts == shared.generate.prompts and config.run == Path("runs", name_of(path))
    for key in ("steps", "batch_size", "learning_rate", "schedule", "warmup_steps", "timesteps"):
        assert getattr(config.train, key) == getattr(shared.train, key), key


def test_each_source_of_tango_2_is_left_out_once_and_no_strategy_is_unknown() -> None:
    everything = {"", *load_world("tones").STRATEGIES}
    left_out = {
        path.stem.removeprefix("tango2_without_"): everything - set(load_config(path).pair.strategies)
        for path in CONFIGS
        if path.stem.startswith("tango2_without_")
    }
    assert left_out == {
        "own": {""}, "drop": {"dropped"}, "insert": {"inserted"}, "swap": {"swapped", "timing"}, "replace": {"kind", "pitch"},
    }  # fmt: skip
    assert all(set(load_config(path).pair.strategies) <= everything for path in OF_WORLDS if path.parent.name == "tones")


def test_both_judges_of_tango_2_on_tones_have_the_four_limits() -> None:
    limits = load_config("tones/tango2").pair.thresholds
    assert set(limits) == {"tones.score", "tones.events"} and all(set(each) == set(LIMITS) for each in limits.values())


def test_every_world_has_a_quickstart_and_the_makefile_says_which_worlds_there_are() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make on the PATH")
    root = bundled_configs().parent

    def told(world: str) -> subprocess.CompletedProcess[str]:
        words = [make, "--no-print-directory", "-n", "quickstart", f"WORLD={world}", "VENV=/nowhere"]
        return subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)

    for world in WORLDS:
        name = "quickstart" + ("" if world == "shapes" else f"_{world}")
        assert f"configs/{name}.yaml" in told(world).stdout and load_config(name).evaluate.prompts.world == world
    for world in ("piano", "", "shapes tones"):
        refused = told(world)
        assert refused.returncode and "choose one of: shapes motion tones" in refused.stderr and not refused.stdout


@pytest.mark.parametrize("path", METHODS, ids=name_of)
def test_the_pairs_of_a_method_are_the_rows_of_its_objective(path: Path) -> None:
    config = load_config(path)
    needs = OBJECTIVES[config.train.objective["name"]]
    triple = needs.triples and config.pair.length == 3
    assert RULES[config.pair.rule].kind in (("list",) if triple else KINDS[needs.rows])
    if needs.rows == "lists":  # of one length, for they are batched, and the same for every method
        assert config.pair == load_config("methods/rankdpo").pair and config.pair.length == 4
    made = {f"{name}.{each}" for name, settings in config.score.rewards.items() for each in declared_dimensions(name, settings)}
    assert {*config.train.scores, *config.pair.spans} <= made
    assert config.pair.spans if needs.rows == "segments" else config.train.scores


@pytest.mark.parametrize("path", METHODS, ids=name_of)
def test_the_header_of_a_method_has_a_command_for_a_real_model(path: Path) -> None:
    assert any(stage == "run" and any(word.startswith("base=configs/") for word in words) for stage, _, *words in commands_of(path))


@pytest.mark.parametrize("path", METHODS, ids=name_of)
def test_the_command_for_a_real_model_gives_its_beta(path: Path) -> None:
    """That of the file is the shapes world's, a tenth of what real models have; SimPO's scale is of the errors, and is the same."""
    real = [command for command in commands_of(path, ["run"]) if any(word.startswith("base=") for word in command)]
    for _, config, *overrides in real:
        objective = load_config(config, overrides).train.objective
        given = any(word.startswith("train.objective.beta=") for word in overrides)
        assert given or "beta" not in objective or path.stem == "simpo", overrides


@pytest.mark.parametrize("path", METHODS, ids=name_of)
def test_a_method_over_the_config_of_a_real_backbone_keeps_its_own_part(path: Path) -> None:
    """It takes the model, the data and the budget from there; tests/test_methods.py trains."""
    base = "dense_video_wan" if path.stem in OF_CLIPS else "sd15_diffusion_dpo"
    config, here, real = load_config(path, [f"base=configs/{base}.yaml"]), load_config(path), load_config(base)
    for key in ("model", "encode", "evaluate"):
        assert getattr(config, key) == getattr(real, key), key
    assert config.pair.source == real.pair.source
    for key in ("objective", "noising", "stabilisers"):
        assert getattr(config.train, key) == getattr(here.train, key), key
    assert config.generate == real.generate
    for key in ("steps", "batch_size", "learning_rate", "schedule", "optimizer", "timesteps", "prompt_dropout"):
        assert getattr(config.train, key) == getattr(real.train, key), key
