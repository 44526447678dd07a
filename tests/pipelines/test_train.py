"""The stage train: from preferences and latents to weights that plain diffusers loads; resumable, refusing what does not fit."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from diffalign.backbones.pipeline import LoadedPipeline
from diffalign.objectives import OBJECTIVES
from diffalign.training.lora import Lora, add_lora
from diffalign.training.reference import FrozenCopy, OtherAdapter
from pipelines.cli import app
from pipelines.config import Config, load_config
from pipelines.model import load_model
from pipelines.progress import Progress
from pipelines.train import Train, run, teacher_folder
from pipelines.train_task import build_task

sys.path.append(str(Path(__file__).parents[1] / "training"))

from train_road import config_file, until_encode

QUIET = Progress(silent=True)


@pytest.fixture()
def road(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> Callable[..., Config]:
    """A run folder made until encode, and its config with changes to the section train."""

    def make(name: str = "run", overrides: tuple[str, ...] = (), **train: Any) -> Config:
        folder = tmp_path / name
        if not folder.exists():
            until_encode(folder, tiny_pipeline, tiny_road)
        return load_config(config_file(folder, tiny_pipeline, **train), overrides)

    return make


class Heard(Progress):
    """Collects what is said."""

    def __init__(self) -> None:
        super().__init__(silent=True)
        self.lines: list[str] = []

    def say(self, text: str, *, style: str | None = None) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
def test_train_writes_weights_that_sample(lora: dict | None, road: Callable[..., Config]) -> None:
    heard = Heard()
    config = road(lora=lora)
    run(config, progress=heard)
    folder = config.run / "train"
    assert (
        "diffusion_dpo on 12 groups; effective batch 4 = 4 × 1 × 1 (per device × accumulation × ranks); lr 0.001; beta 100"
        in heard.lines[0]
    )
    record = json.loads((folder / "stage.json").read_text())
    assert record["complete"] and record["summary"]["groups"] == 12 and "loss" in record["summary"]
    assert record["summary"]["forwards_per_step"] == 2 * record["summary"]["backwards_per_step"] > 0  # policy and reference
    assert load_config(folder / "config.yaml") == config
    base = load_model(config.model).sample(["a red circle"], [1], steps=2, guidance=2.0)
    aligned = load_model(config.model, **({"denoiser": folder / "final"} if lora is None else {"adapter": folder / "final"}))
    assert base[0].identity() != aligned.sample(["a red circle"], [1], steps=2, guidance=2.0)[0].identity()
    assert json.loads((folder / "final/reference.json").read_text())["base"] == load_model(config.model).identity()

    before = {path: path.stat().st_mtime_ns for path in (folder / "final").rglob("*")}
    again = Heard()
    run(config, progress=again)
    assert again.lines == ["train: nothing to do, it is complete"]
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "final").rglob("*")}


@pytest.mark.parametrize(
    ("changes", "is_warned"),
    [({}, True), ({"noising": "independent"}, False), ({"objective": "sft"}, False), ({"guided": "null"}, False)],
    ids=["shared", "independent", "without losers", "not guided"],
)
def test_one_noise_for_guided_pairs_is_warned_of(changes: dict[str, Any], is_warned: bool, road: Callable[..., Config]) -> None:
    heard, guided = Heard(), changes.pop("guided", "{world: shapes}")
    run(road("run", (f"generate={{prompts: {{texts: [a]}}, guided: {guided}}}",), steps=1, **changes), progress=heard)
    assert any("train.noising=independent" in line for line in heard.lines) == is_warned


def test_diagnostics_reach_the_console_every_so_many_steps(road: Callable[..., Config]) -> None:
    heard = Heard()
    run(road(log_every=2), progress=heard)
    lines = [line for line in heard.lines if line.startswith("train: step ")]
    assert [line.partition(":")[2].split(":")[0] for line in lines] == [" step 2/6", " step 4/6", " step 6/6"]
    assert all(f"  {name} " in lines[-1] for name in ("accuracies", "margins", "win_adv", "lose_adv", "grad_norm", "lr"))
    logged = json.loads((road().run / "train/metrics.jsonl").read_text().splitlines()[-1])
    assert f"loss {logged['loss']:.3g}  accuracies {logged['rewards/accuracies']:.3g}  " in lines[-1]


@pytest.mark.parametrize(
    "settings",
    [{}, {"lora": {"rank": 2}}, {"objective": {"name": "sparsepo", "beta": 100.0}, "mask": {"kind": "activation"}},
     {"objective": "dro", "noising": "trajectory", "own_samples": {"size": 4, "steps": 3}}],
    ids=["full", "lora", "mask", "own_samples"],
)  # fmt: skip
def test_training_needs_no_encoder(settings: dict[str, Any], road: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where autoencoder and text encoder lose their values once they are identified, the run has the same bits."""
    found, lost, identify = [], [], LoadedPipeline.encoder_identity

    def lose(backbone: LoadedPipeline) -> str:
        identity = identify(backbone)
        for part in ("vae", "text_encoder"):
            lost.append(getattr(backbone.pipeline, part).to("meta"))
        return identity

    for name in ("there", "gone"):
        config = road(name, **settings)
        with monkeypatch.context() as patch:
            if name == "gone":
                patch.setattr(LoadedPipeline, "encoder_identity", lose)
            run(config, progress=QUIET)
        found.append(result_of(config))
    assert found[0] == found[1] and len(found[0]) >= 2 and len(lost) == 2


def test_training_moves_no_encoder(road: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the model's nor a teacher's: where a device is full they would not fit, if only for a moment."""
    earlier, moved, to = road("earlier", lora={"rank": 2}), [], nn.Module.to

    def watched(module: nn.Module, *arguments: Any, **options: Any) -> nn.Module:
        moved.append(type(module).__name__)
        return to(module, *arguments, **options)

    monkeypatch.setattr(nn.Module, "to", watched)
    run(earlier, progress=QUIET)
    objective = {"name": "tgdpo", "beta": 100.0}
    run(road("taught", objective=objective, teacher=str(earlier.run / "train" / "final")), progress=QUIET)
    assert moved.count("UNet2DConditionModel") >= 3 and not {"AutoencoderKL", "CLIPTextModel"} & set(moved)


def result_of(config: Config) -> dict[str, bytes]:
    """The metrics and weights of a run."""
    folder = config.run / "train"
    files = [folder / "metrics.jsonl", *(folder / "final").rglob("*.safetensors")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_a_micro_batch_may_run_in_parts(road: Callable[..., Config]) -> None:
    """The same run to rounding, whose setting may change; with dropout it is another run, for masks are drawn by forward."""
    both = road("both", samples_per_forward=3, gradient_checkpointing=True)
    configs = (road("whole"), road("parts", samples_per_forward=3), both)
    for config in configs:
        run(config, progress=QUIET)
    losses = [[line["loss"] for line in metrics_of(config)] for config in configs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0] != losses[1] and losses[1] == pytest.approx(losses[2], rel=1e-3)
    run(road("parts"), progress=QUIET)  # changes nothing that was computed
    dropout = {"lora": {"rank": 2, "dropout": 0.5}, "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        run(road("dropout", samples_per_forward=3, **dropout), progress=Interrupting(3))
    with pytest.raises(ValueError, match="samples per forward: checkpoint has 3, this run 1"):
        run(road("dropout", samples_per_forward=1, **dropout), progress=QUIET)


@pytest.mark.parametrize("options", [{}, {"reference_device": "cpu", "samples_per_forward": 3}], ids=["", "resting"])
def test_a_complete_cache_needs_no_frozen_copy(
    options: dict[str, Any], road: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where predictions are lacking, the copy is of the base also after updates; the bits are those of a run without a cache."""
    made: list[str] = []
    init, name = FrozenCopy.__init__, ""

    def counted(self: FrozenCopy, *arguments: Any) -> None:
        made.append(name)
        init(self, *arguments)

    monkeypatch.setattr(FrozenCopy, "__init__", counted)
    folder, found = tmp_path / "kept", []
    for name in ("bare", "cold", "warm", "holes"):
        config = road(name, **options, **({} if name == "bare" else {"reference_cache": str(folder)}))
        if name == "holes":
            for file in sorted(folder.iterdir())[::2]:
                file.unlink()
        run(config, progress=QUIET)
        found.append(result_of(config))
    assert made == ["bare", "cold", "holes"]
    assert all(each == found[0] for each in found[1:])


def test_a_copy_of_another_base_is_refused(road: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipelines.model

    load, loaded = pipelines.model.load_model, []

    def changed(*arguments: Any, **options: Any) -> Any:
        loaded.append(load(*arguments, **options))
        if len(loaded) == 2:
            with torch.no_grad():
                loaded[1].denoiser.get_parameter("conv_out.bias").add_(1)
        return loaded[-1]

    monkeypatch.setattr(pipelines.model, "load_model", changed)
    with pytest.raises(ValueError, match=r"has changed since this run began .* lacks predictions of it; put it back"):
        run(road(reference_cache=str(tmp_path / "kept")), progress=QUIET)


class Interrupting(Progress):
    """Ctrl-C after some steps of a bar."""

    def __init__(self, after: int, name: str = "train") -> None:
        super().__init__(silent=True)
        self.after, self.name = after, name

    @contextmanager
    def bar(self, description: str, total: int | None, *, done: int = 0):
        left = self.after + 1  # one call tells where the run starts

        def advance(n: int = 1) -> None:
            nonlocal left
            left -= description == self.name
            if left == 0:
                raise KeyboardInterrupt

        yield advance


INVERTED = {"name": "renoise_inversion", "network": "reference", "steps": 3}


def test_an_inversion_by_the_reference_is_made_before_the_first_step(
    road: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that inverts step by step, bit for bit but for the distance; what is lost of the cache is made again by a copy."""
    kept, found = tmp_path / "kept", []
    live = road("live", noising=INVERTED, checkpoint_every=2)
    ahead = road("ahead", noising=INVERTED, checkpoint_every=2, reference_errors="ahead", reference_cache=str(kept))
    loaded, load = [], load_model
    monkeypatch.setattr("pipelines.model.load_model", lambda *given, **named: loaded.append(given) or load(*given, **named))
    with pytest.raises(KeyboardInterrupt):
        run(ahead, progress=Interrupting(0, "train"))
    made = {file: file.read_bytes() for file in kept.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        run(ahead, progress=Interrupting(3, "train"))
    assert made and {file: file.read_bytes() for file in kept.iterdir()} == made
    assert len(loaded) == 2, "one model for each run so far, no copy of the base"
    for file in made:
        file.unlink()
    for config in (live, ahead):
        run(config, progress=QUIET)
        log = [{**line, "distance": None} for line in metrics_of(config)]
        found.append(result_of(config) | {"metrics.jsonl": json.dumps(log, sort_keys=True).encode()})
    assert found[0] == found[1] and {*kept.iterdir()} < {*made}


def test_errors_ahead_need_no_second_denoiser(road: Callable[..., Config]) -> None:
    """The run of a frozen copy, bit for bit but for the distance to it; killed in the pass and in training, it goes on."""
    import gc

    from diffusers import UNet2DConditionModel

    class Counting(Progress):
        """Denoisers in memory at each step of training."""

        def __init__(self) -> None:
            super().__init__(silent=True)
            self.seen: set[int] = set()

        @contextmanager
        def bar(self, description: str, total: int | None, *, done: int = 0):
            def advance(n: int = 1) -> None:
                self.seen |= {sum(type(each) is UNet2DConditionModel for each in gc.get_objects()) - before}

            yield advance

    def interrupted(config: Config, bar: str) -> dict[Path, int]:
        """The parts made so far, and when."""
        with pytest.raises(KeyboardInterrupt):
            run(config, progress=Interrupting(3, bar))
        return {file: file.stat().st_mtime_ns for file in (config.run / "train/reference_errors").iterdir()}

    found = []
    for errors, denoisers in (("live", 2), ("ahead", 1)):
        config, counting = road(errors, reference_errors=errors, draws=2, checkpoint_every=2), Counting()
        if errors == "ahead":
            in_pass, in_training = interrupted(config, "reference"), interrupted(config, "train")
            assert len(in_pass) == 3 and len(in_training) == 6 and in_pass.items() <= in_training.items()
        gc.collect()
        before = sum(type(each) is UNet2DConditionModel for each in gc.get_objects())
        run(config, progress=counting)
        assert counting.seen == {denoisers}
        log = [{**line, "distance": None} for line in metrics_of(config)]
        found.append(result_of(config) | {"metrics.jsonl": json.dumps(log, sort_keys=True).encode()})
    assert found[1] == found[0]


def test_a_pass_over_other_pairs_is_made_again(road: Callable[..., Config]) -> None:
    """Before the first step nothing is lost by other settings, and nothing is mixed."""
    config, other = road("run", reference_errors="ahead"), road("run", reference_errors="ahead", flip=0.5)
    with pytest.raises(KeyboardInterrupt):
        run(config, progress=Interrupting(3, "reference"))
    run(other, progress=QUIET)
    fresh = road("fresh", reference_errors="ahead", flip=0.5)
    run(fresh, progress=QUIET)
    for one, two in zip(*(sorted((each.run / "train/reference_errors").iterdir()) for each in (other, fresh)), strict=True):
        assert torch.equal(load_file(one)["errors"], load_file(two)["errors"])


def test_a_lora_on_torchao_s_weights_is_trained_and_goes_on_where_it_was_stopped(road: Callable[..., Config]) -> None:
    """The base is quantised, the encoders are not read onto the device; stopped, the run ends with the same bits."""
    pytest.importorskip("torchao")  # .ci/run installs it after the suite
    found = []
    for name in ("whole", "parts"):
        config = road(name, ("model.quantise=int8_weight_only", "model.device=cpu"), lora={"rank": 2}, checkpoint_every=2)
        if name == "parts":
            with pytest.raises(KeyboardInterrupt):
                run(config, progress=Interrupting(3, "train"))
        run(config, progress=QUIET)
        found.append(result_of(config))
    assert found[0] == found[1]
    whole = road("base", lora={"rank": 2})
    assert json.loads((whole.run.parent / "whole/train/final/reference.json").read_text())["base"] != load_model(whole.model).identity()


def test_errors_live_leave_earlier_runs_current() -> None:
    assert "reference_errors" not in Train().facts() and Train(reference_errors="ahead").facts()["reference_errors"] == "ahead"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lora": {}}, "under LoRA the base is the reference, without a copy; remove train.reference_errors"),
        ({"reference": {"name": "ema", "decay": 0.9}}, "reference 'ema' moves; set train.reference=initial"),
        ({"reference": "on_policy"}, "reference 'on_policy' moves"),
        ({"objective": "sft"}, "objective 'sft' has no reference; remove train.reference_errors"),
        ({"objective": "dspo"}, "objective 'dspo' reads the reference's whole prediction; set train.reference_errors=live"),
        ({"objective": "kto"}, "objective 'kto' reads predictions under other prompts; set"),
        ({"objective": "dro", "noising": "trajectory"}, "objective 'dro' trains on what the policy samples later; set"),
        ({"objective": "sparsepo", "mask": {}}, "objective 'sparsepo' reads the reference's whole prediction"),
        ({"objective": "tgdpo", "teacher": "runs/earlier"}, "objective 'tgdpo' reads the reference's whole prediction"),
        ({"noising": "ddim_inversion"}, "runs the policy; set train.noising.network=reference, or train.noising to shared or independent"),
        ({"noising": "renoise_inversion"}, "noising 'renoise_inversion' runs the policy"),
        ({"noising": INVERTED}, "noising 'renoise_inversion' keeps what it runs; set train.reference_cache to a folder"),
        ({"noising": INVERTED, "reference_cache": "kept", "sft_steps": 1}, "noising 'renoise_inversion' runs in train.sft_steps too"),
        ({"stabilisers": {"kl_correction": {}}}, "'kl_correction' reads the reference's whole prediction; remove that stabiliser"),
        ({"reference_cache": "kept"}, "a cache keeps predictions, and with noising 'shared' no step has any; remove train.reference_cache"),
        ({"reference_dtype": "bfloat16", "precision": "bf16"}, "no copy in another type; remove train.reference_dtype"),
        ({"reference_device": "cpu"}, "no copy to rest in main memory; remove train.reference_device"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)  # fmt: skip
def test_errors_ahead_are_refused_where_a_step_needs_more(changes: dict[str, Any], why: str) -> None:
    Train.model_validate(changes)
    with pytest.raises(ValueError, match=f"reference_errors 'ahead' .*: .*{why}"):
        Train.model_validate({"reference_errors": "ahead", **changes})


def test_an_interrupted_run_goes_on_where_it_was(road: Callable[..., Config]) -> None:
    whole, parts = road("whole", checkpoint_every=2), road("parts", checkpoint_every=2)
    run(whole, progress=QUIET)
    with pytest.raises(KeyboardInterrupt):
        run(parts, progress=Interrupting(3))
    assert not json.loads((parts.run / "train/stage.json").read_text())["complete"]
    heard = Heard()
    run(parts, progress=heard)
    assert "train: resuming from step 2" in heard.lines
    for name in ("metrics.jsonl", "final/unet/diffusion_pytorch_model.safetensors"):
        assert (whole.run / "train" / name).read_bytes() == (parts.run / "train" / name).read_bytes()


def test_a_lost_result_is_published_again(road: Callable[..., Config]) -> None:
    config = road()
    run(config, progress=QUIET)
    weights = config.run / "train/final/unet/diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    shutil.rmtree(config.run / "train/final")
    run(config, progress=QUIET)
    assert weights.read_bytes() == before


def test_what_is_beside_the_result_may_go(road: Callable[..., Config]) -> None:
    config = road(checkpoint_every=2)
    run(config, progress=QUIET)
    folder = config.run / "train"
    before = {name: (folder / name).stat().st_mtime_ns for name in ("metrics.jsonl", "final", "stage.json")}
    shutil.rmtree(folder / "checkpoints")
    (folder / "speed.jsonl").unlink()
    heard = Heard()
    run(config, progress=heard)
    assert heard.lines == ["train: nothing to do, it is complete"]
    assert before == {name: (folder / name).stat().st_mtime_ns for name in before}


def test_the_same_training_again_is_the_same_input(road: Callable[..., Config]) -> None:
    config = road(tracker="tensorboard")
    prints = []
    for _ in range(2):
        run(config, redo=True, progress=QUIET)
        prints.append(json.loads((config.run / "train/stage.json").read_text())["fingerprint"])
    assert prints[0] == prints[1]


def test_an_interrupted_run_may_write_checkpoints_at_other_steps(road: Callable[..., Config]) -> None:
    """The record has those of its first step, and a run that is complete stays so."""
    with pytest.raises(KeyboardInterrupt):
        run(road(checkpoint_every=2), progress=Interrupting(3))
    config, heard = road(checkpoint_every=3, keep_checkpoints=1), Heard()
    run(config, progress=heard)
    assert "train: resuming from step 2" in heard.lines
    folder = config.run / "train"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_000006"]
    recorded = json.loads((folder / "stage.json").read_text())["settings"]["train"]
    assert recorded["checkpoint_every"] == 2 and "keep_checkpoints" not in recorded
    heard = Heard()
    run(road(checkpoint_every=1), progress=heard)
    assert heard.lines == ["train: nothing to do, it is complete"]
    run(road(checkpoint_every=1), redo=True, progress=QUIET)
    assert json.loads((folder / "stage.json").read_text())["settings"]["train"]["checkpoint_every"] == 1


def test_a_log_that_is_lost_beside_its_checkpoints_is_named(road: Callable[..., Config]) -> None:
    config = road(checkpoint_every=2)
    run(config, progress=QUIET)
    (config.run / "train/metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"metrics\.jsonl is lost, and with it the first 6 steps of the log; .*--redo"):
        run(config, progress=QUIET)


def test_a_mistake_that_shows_before_the_first_step_can_be_corrected(road: Callable[..., Config]) -> None:
    with pytest.raises(ValueError, match="use precision 'bf16' or 'fp32'"):
        run(road(precision="fp16", tracker="tensorboard"), progress=QUIET)
    run(road(), progress=QUIET)


def test_changed_settings_are_refused_and_redone(road: Callable[..., Config]) -> None:
    run(road(), progress=QUIET)
    changed = road(learning_rate=2e-3)
    with pytest.raises(ValueError, match=r"train\.learning_rate: was 0\.001, is now 0\.002") as refused:
        run(changed, progress=QUIET)
    assert "--redo" in str(refused.value)
    run(road(log_every=1), progress=QUIET)  # changes nothing that was computed
    run(changed, redo=True, progress=QUIET)
    assert json.loads((changed.run / "train/metrics.jsonl").read_text().splitlines()[-1])["lr"] == 2e-3
    assert (changed.run / "replaced/train.1/final").is_dir()


def test_supervised_fine_tuning_takes_the_winners_of_pairs(road: Callable[..., Config]) -> None:
    config = road(objective="sft")
    run(config, progress=QUIET)
    line = json.loads((config.run / "train/metrics.jsonl").read_text().splitlines()[-1])
    assert line["loss"] == pytest.approx(line["error/policy_w"]) and "rewards/margins" not in line


def metrics_of(config: Config) -> list[dict[str, float]]:
    return [json.loads(line) for line in (config.run / "train/metrics.jsonl").read_text().splitlines()]


def test_the_first_steps_may_be_supervised_fine_tuning(road: Callable[..., Config]) -> None:
    """Tango 2: first the winners' error, as SFT on the same draws; then the objective, still against the base."""
    sft = road("sft", ("train.objective=sft",), steps=4)
    both, parts = (road(name, sft_steps=4, steps=6, checkpoint_every=2) for name in ("both", "parts"))
    run(sft, progress=QUIET)
    run(both, progress=QUIET)
    first, then = metrics_of(both)[:4], metrics_of(both)[4:]
    assert [line["loss"] for line in first] == pytest.approx([line["loss"] for line in metrics_of(sft)], rel=1e-5)
    assert all("rewards/margins" not in line for line in first)
    assert all(line["loss"] != pytest.approx(np.log(2), abs=1e-6) and abs(line["win_adv"]) > 0 for line in then)
    with pytest.raises(KeyboardInterrupt):
        run(parts, progress=Interrupting(3))  # inside the first phase: it goes on in it
    run(parts, progress=QUIET)
    for name in ("metrics.jsonl", "final/unet/diffusion_pytorch_model.safetensors"):
        assert (both.run / "train" / name).read_bytes() == (parts.run / "train" / name).read_bytes()


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
def test_the_reference_is_a_setting(lora: dict | None, road: Callable[..., Config]) -> None:
    """Three stages of two steps: measured from the policy that a stage found, drift begins at 0 again."""
    order = {"name": "curriculum", "stages": 3, "cumulative": False}
    config = road(lora=lora, order=order, reference="previous_stage")
    run(config, progress=QUIET)
    lines = [json.loads(line) for line in (config.run / "train/metrics.jsonl").read_text().splitlines()]
    assert [line["distance"] == 0 for line in lines] == [True, False] * 3
    with pytest.raises(ValueError, match=r'train\.reference\.name: was "previous_stage", is now "ema"'):
        run(road(lora=lora, order=order, reference={"name": "ema", "decay": 0.9}), progress=QUIET)


def saved_adapter(config: Config, folder: Path, rank: int, targets: tuple[str, ...], seed: int) -> Path:
    """A LoRA that does something, as training leaves it."""
    backbone: Any = load_model(config.model)
    add_lora(backbone.denoiser, Lora(rank=rank, alpha=2 * rank, targets=targets), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in backbone.denoiser.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    backbone.save_trained(folder)
    return folder


def test_a_second_adapter_is_the_reference(road: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a frozen copy of the base with that adapter merged is; killed, it goes on to the same bits; what is saved is the policy's."""
    # Of another rank than the policy's, on layers that it has not and without some that it has.
    adapter = saved_adapter(road(), tmp_path / "other", 3, ("to_k", "to_out.0", "conv1"), 1)
    settings: dict[str, Any] = {"lora": {"rank": 2, "targets": ["to_q", "to_k"]}, "steps": 4, "checkpoint_every": 2}
    reference = {"name": "adapter", "adapter": str(adapter)}
    whole, parts, copied = (road(name, **settings, reference=reference) for name in ("whole", "parts", "copied"))
    plain = road("plain", **settings)
    run(whole, progress=QUIET)
    with pytest.raises(KeyboardInterrupt):
        run(parts, progress=Interrupting(3))
    run(parts, progress=QUIET)
    for name in ("metrics.jsonl", "final/pytorch_lora_weights.safetensors"):
        assert (whole.run / "train" / name).read_bytes() == (parts.run / "train" / name).read_bytes()
    run(plain, progress=QUIET)
    with monkeypatch.context() as patch:
        merged = load_model(whole.model, adapter=adapter).denoiser
        patch.setattr("diffalign.training.reference.build_reference", lambda policy, *_, **__: OtherAdapter(policy) and FrozenCopy(merged))
        run(copied, progress=QUIET)
    for one, other, base in zip(*(metrics_of(each) for each in (whole, copied, plain)), strict=True):
        for key in ("loss", "win_adv", "lose_adv", "rewards/margins", "grad_norm"):
            assert one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-6), key
        assert one["loss"] != pytest.approx(base["loss"], rel=1e-3)
    saved = [load_file(each.run / "train/final/pytorch_lora_weights.safetensors") for each in (whole, plain)]
    assert {name: value.shape for name, value in saved[0].items()} == {name: value.shape for name, value in saved[1].items()}
    facts = json.loads((whole.run / "train/final/reference.json").read_text())
    assert facts["base"] == load_model(whole.model).identity() and len(facts["reference adapter"]) == 16
    shutil.rmtree(adapter)
    saved_adapter(whole, adapter, 3, ("to_k", "to_out.0", "conv1"), 2)
    with pytest.raises(ValueError, match='reference: was "sha256:'):  # complete, but measured from another one
        run(whole, progress=QUIET)


def test_a_reference_that_does_not_fit_is_named(road: Callable[..., Config], tmp_path: Path) -> None:
    weights = {f"transformer.blocks.0.attn.to_q.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    (tmp_path / "other").mkdir()
    save_file(weights, tmp_path / "other/pytorch_lora_weights.safetensors")
    config = road(lora={"rank": 2}, reference={"name": "adapter", "adapter": str(tmp_path / "other")})
    with pytest.raises(ValueError, match=r"adapter '.*other' has no weights for the denoiser of"):
        run(config, progress=QUIET)


def test_a_reference_s_scale_is_a_part_of_its_identity(road: Callable[..., Config], tmp_path: Path) -> None:
    adapter = saved_adapter(road(), tmp_path / "other", 3, ("to_k",), 1)
    named = load_file(adapter / "pytorch_lora_weights.safetensors")
    weights = {name.removeprefix("unet."): value for name, value in named.items()}
    targets, found = sorted({name.partition(".lora")[0] for name in weights}), []
    for alpha in (3, 6):
        metadata = {"r": 3, "lora_alpha": alpha, "target_modules": targets}
        StableDiffusionPipeline.save_lora_weights(tmp_path / f"{alpha}", weights, unet_lora_adapter_metadata=metadata)
        backbone: Any = load_model(road().model)
        add_lora(backbone.denoiser, Lora(rank=2), 0)
        found.append(backbone.keep_reference(str(tmp_path / f"{alpha}"), "reference"))
    assert len(set(found)) == 2


def test_a_reference_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reference 'adapter' with adapter None; write \{name: adapter, adapter: FOLDER\}"):
        Train(reference="adapter", lora={})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reference 'ema' with adapter 'x'; write"):
        Train(reference={"name": "ema", "decay": 0.5, "adapter": "x"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"reference 'adapter' is switched with the one that is trained, and train\.lora is not set"):
        Train(reference={"name": "adapter", "adapter": "x"})  # type: ignore[arg-type]
    for objective in (name for name, needs in OBJECTIVES.items() if needs.reference is None):
        with pytest.raises(ValueError, match=rf"objectives that measure drift, and '{objective}' has no reference; remove train.reference"):
            Train(objective={"name": objective}, reference={"name": "on_policy"})
    with pytest.raises(ValueError, match=r"order is 'shuffle', which has none; set train.order=\{name: curriculum, stages: 3"):
        Train(reference={"name": "previous_stage"})
    with pytest.raises(ValueError, match=r"reference 'on_policy' has the policy's own type; remove train.reference_dtype"):
        Train(reference={"name": "on_policy"}, reference_dtype="bfloat16", precision="bf16")
    assert Train(reference="on_policy").reference.name == "on_policy"
    with pytest.raises(ValueError, match=r"train\.reference.*reference 'ema' needs a decay"):
        load_config("quickstart", ["train.reference=ema"])


def test_a_reference_in_half_precision_is_no_false_alarm(road: Callable[..., Config]) -> None:
    run(road(objective={"name": "diffusion_dpo", "beta": 5000}, reference_dtype="bfloat16", precision="bf16"), progress=QUIET)


def test_a_reference_in_main_memory_changes_no_bit(road: Callable[..., Config]) -> None:
    """And no fingerprint: a run may go on with the other."""
    config = road()
    run(config, progress=QUIET)
    expected = (config.run / "train/metrics.jsonl").read_bytes()
    run(road(reference_device="cpu"), progress=QUIET)
    assert (config.run / "train/metrics.jsonl").read_bytes() == expected and not (config.run / "replaced").exists()
    run(road(reference_device="cpu"), redo=True, progress=QUIET)
    assert (config.run / "train/metrics.jsonl").read_bytes() == expected and (config.run / "replaced").exists()
    for without in ({"lora": {}}, {"reference": "on_policy"}):
        with pytest.raises(ValueError, match="reference_device 'cpu' is of a frozen copy, and LoRA or a reference that moves has none"):
            Train.model_validate({"reference_device": "cpu", **without})


def test_mirrored_latents_must_have_been_encoded(road: Callable[..., Config]) -> None:
    config = road(flip=0.5)
    path = config.run / "latents/cache.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"flip": False}))
    record = config.run / "latents/stage.json"  # the stage is complete; only what it was asked for differs
    values = json.loads(record.read_text())
    values["files"]["cache.json"] = path.stat().st_size
    record.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"set encode.flip=true"):
        run(config, progress=QUIET)


def test_full_fine_tuning_of_a_half_precision_model_is_refused(road: Callable[..., Config]) -> None:
    with pytest.raises(ValueError, match=r"model.dtype is 'bfloat16'; set model.dtype=float32 and train.precision=bf16"):
        run(road(overrides=("model.dtype=bfloat16",)), progress=QUIET)
    run(road(name="adapter", overrides=("model.dtype=bfloat16",), lora={"rank": 2}, precision="bf16"), progress=QUIET)


def test_half_precision_that_float32_could_not_enter_is_refused_before_the_model_is_loaded(road: Callable[..., Config]) -> None:
    with pytest.raises(ValueError, match=r"model.dtype 'bfloat16' with train.precision 'fp32'.*set train.precision=bf16"):
        run(road(overrides=("model.dtype=bfloat16",), lora={"rank": 2}), progress=QUIET)
    with pytest.raises(ValueError, match=r"reference_dtype 'float16' with precision 'fp32'.*or reference_dtype to float32"):
        Train.model_validate({"reference_dtype": "float16"})


def test_a_half_precision_cache_trains_in_float32(road: Callable[..., Config]) -> None:
    from safetensors.torch import load_file, save_file

    config = road()
    record = json.loads((config.run / "latents/stage.json").read_text())
    for path in (config.run / "latents").rglob("*.safetensors"):
        save_file({name: value.half() for name, value in load_file(path).items()}, path)
        record["files"][str(path.relative_to(config.run / "latents"))] = path.stat().st_size
    (config.run / "latents/stage.json").write_text(json.dumps(record))
    run(config, progress=QUIET)


def test_latents_of_another_autoencoder_are_refused(road: Callable[..., Config], tiny_pipeline: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    other = tmp_path / "other"
    shutil.copytree(tiny_pipeline, other)
    vae = AutoencoderKL.from_pretrained(other / "vae")
    vae.decoder.conv_in.weight.data[0, 0, 0, 0] += 1e-3
    vae.save_pretrained(other / "vae")
    with pytest.raises(ValueError, match=r"made by another autoencoder or text encoder \(float32:.*diffalign encode CONFIG --redo"):
        run(road(overrides=(f"model.source={other}",)), progress=QUIET)


def test_a_teacher_is_an_earlier_run_and_another_one_is_another_training(road: Callable[..., Config]) -> None:
    earlier = road("earlier", lora={"rank": 2})
    run(earlier, progress=QUIET)
    objective = {"name": "tgdpo", "beta": 100.0}
    taught = road("taught", objective=objective, teacher=str(earlier.run / "train" / "final"))
    run(taught, progress=QUIET)
    run(road("plain"), progress=QUIET)
    lines, plain = (
        [json.loads(line)["loss"] for line in (taught.run.parent / name / "train" / "metrics.jsonl").read_text().splitlines()]
        for name in ("taught", "plain")
    )
    assert lines[0] == pytest.approx(plain[0]) and lines[-1] != pytest.approx(plain[-1], rel=1e-6)
    run(road("earlier", lora={"rank": 2}, steps=4), redo=True, progress=QUIET)
    with pytest.raises(ValueError, match="teacher"):
        run(taught, progress=QUIET)
    mapped = road("mapped", objective=objective, teacher=str(earlier.run / "train" / "final"), teacher_draws=3)
    run(mapped, progress=QUIET)
    steps = [json.loads(line)["loss"] for line in (mapped.run / "train" / "metrics.jsonl").read_text().splitlines()]
    assert steps[0] == pytest.approx(lines[0]) and steps[-1] != pytest.approx(lines[-1], rel=1e-6)
    with pytest.raises(FileNotFoundError, match=r"train\.teacher is '.*nowhere', which is no folder; give RUN/train/final"):
        run(road("lost", objective=objective, teacher=str(earlier.run / "nowhere")), progress=QUIET)


def test_a_teacher_that_is_not_made_yet_is_named_with_the_command_that_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything else of the road is made."""
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["run", "methods/tgdpo"])
    assert told.exit_code == 1 and not list(tmp_path.iterdir())
    assert "make it first: diffalign run configs/methods/diffusion_dpo.yaml" in " ".join(told.stderr.split())
    with pytest.raises(FileNotFoundError, match="give RUN/train/final of an earlier run"):
        teacher_folder(Path("elsewhere/diffusion_dpo/train/final"))
    Path("runs/methods/diffusion_dpo/train/final").mkdir(parents=True)
    assert teacher_folder(Path("runs/methods/diffusion_dpo/train/final")).is_dir()


@pytest.mark.parametrize("kind", ["activation", "learned"])
def test_a_mask_of_either_kind_trains(kind: str, road: Callable[..., Config]) -> None:
    config = road(objective={"name": "sparsepo", "beta": 100.0}, mask={"kind": kind})
    run(config, progress=QUIET)
    first, *_, last = (json.loads(line) for line in (config.run / "train" / "metrics.jsonl").read_text().splitlines())
    assert first["loss"] == pytest.approx(np.log(2), rel=1e-4) and last["loss"] != first["loss"]


def test_the_kept_config_says_every_number_of_the_objective(road: Callable[..., Config]) -> None:
    config = road(objective="rpo")
    run(config, progress=QUIET)
    assert "beta: 5000.0" in (config.run / "train/config.yaml").read_text()
    with pytest.raises(ValueError, match=r"train\.objective\.sft: was 0\.4, is now 0\.8"):
        run(road(objective={"name": "rpo", "sft": 0.8}), progress=QUIET)


def test_train_before_its_input_says_what_to_run(tiny_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first: diffalign pair"):
        run(load_config(config_file(tmp_path / "run", tiny_pipeline)), progress=QUIET)


DRO = {"objective": "dro", "noising": "trajectory"}


def test_own_samples_have_defaults_where_they_are_read() -> None:
    """The release's of Diffusion-DRO; a pairwise stabiliser may act on expert and own sample."""
    section = Train.model_validate(DRO | {"stabilisers": {"winner_safeguard": {}}})
    assert section.own_samples is not None and section.own_samples.model_dump() == {"size": 16, "refresh": 1, "steps": 20}
    assert Train.model_validate({}).own_samples is None
    Train.model_validate(DRO | {"own_samples": {"steps": 10}, "timesteps": [0.4, 0.5]})


@pytest.mark.parametrize("objective, message", [
    ({"name": "modpo", "weights": [0.4, 0.3, 0.3]}, r"modpo got weights \[0\.4, 0\.3, 0\.3\] for 1 scores; give one for each"),
    ({"name": "rlength", "coefficients": [0.1, 0.2]}, r"rlength got 2 coefficients and 1 scores; name a score for each feature"),
])  # fmt: skip
def test_scores_that_an_objective_does_not_take_are_told_before_a_model_is_loaded(
    objective: dict[str, Any], message: str, tiny_road: Path, tmp_path: Path
) -> None:
    config = Config.model_validate({"run": tmp_path, "model": {"source": "no/model"}, "train": {"objective": objective, "steps": 2}})
    with pytest.raises(ValueError, match=message):
        build_task(config, tiny_road / "preferences", tiny_road / "latents")


@pytest.mark.parametrize("objective", [{"name": "capo", "bias": 0.0}, {"name": "rankdpo", "rank_by": "model"}, {"name": "madpo"}])
def test_scores_that_an_objective_takes_lead_on_to_the_model(objective: dict[str, Any], tiny_road: Path, tmp_path: Path) -> None:
    """It is asked with all that a run gives it, as CaPO's weights of timesteps need the signal-to-noise ratio."""
    config = Config.model_validate({"run": tmp_path, "model": {"source": "no/model"}, "train": {"objective": objective, "steps": 2}})
    with pytest.raises(FileNotFoundError, match="no/model"):
        build_task(config, tiny_road / "preferences", tiny_road / "latents")


@pytest.mark.parametrize("values, message", [
    ({"objective": "diffusion_dop"}, r"unknown objective 'diffusion_dop' \(did you mean 'diffusion_dpo'\?\)"),
    ({"objective": {"name": "ipo", "betta": 3}}, r"objective 'ipo' has no argument 'betta' \(did you mean 'beta'\?\); it takes: beta"),
    ({"objective": {"beta": 3}}, r"has no name; write \{name: diffusion_dpo"),
    ({"noising": "alone"}, "unknown noising 'alone'; choose one of: shared, independent"),
    ({"objective": "tgdpo"}, r"'tgdpo' reads a teacher; add one, for example train: \{teacher: runs/earlier/train/final\}"),
    ({"objective": "sparsepo"}, r"'sparsepo' reads a mask; add one, for example train: \{mask: \{kind: activation\}\}"),
    ({"teacher_draws": 4}, r"teacher_draws 4 remember .* teacher is 'None', reference 'initial': remove teacher_draws, or set train"),
    (
        {"objective": "tgdpo", "teacher": "runs/x", "teacher_draws": 4, "reference": "on_policy"},
        r"teacher is 'runs/x', reference 'on_policy': remove teacher_draws, or .* reference: initial",
    ),
    ({"teacher": "runs/x"}, "'diffusion_dpo' reads no teacher; remove train.teacher"),
    ({"objective": "dro"}, "'dro' reads own samples, noising 'shared' has none; set train.noising: trajectory"),
    ({"noising": "trajectory"}, "'diffusion_dpo' reads no own samples; remove train.noising: trajectory, or choose .*: dro"),
    ({"own_samples": {"size": 4}}, "'diffusion_dpo' reads no own samples; remove train.own_samples, or choose"),
    (DRO | {"own_samples": {"steps": 5}, "timesteps": [0.4, 0.5]}, r"some have no point in .* \[0\.4, 0\.5\]; set .* to 10 or"),
    (DRO | {"own_samples": {"size": 0}}, "own_samples.size"),
    (DRO | {"own_samples": {"guidance": 3}}, "own_samples.guidance"),
    (DRO | {"draws": 2}, "draws 2 .* 'dro' draws its groups with its own samples; remove train.draws, and raise batch_size"),
    ({"draws": 0}, r"draws\n.*greater than or equal to 1"),
    ({"draws": 1.5}, "draws"),
    (DRO | {"objective": "fsft", "stabilisers": {"winner_safeguard": {}}, "noising": "shared"},
     "'winner_safeguard' acts on pairs, and objective 'fsft' trains on positives; remove it, or take kl_correction "),
    ({"stabilisers": {"safeguard": {}}}, "unknown stabiliser 'safeguard'"),
    ({"objective": "capo", "stabilisers": {"winner_safeguard": {}}},
     "'winner_safeguard' acts on pairs, and objective 'capo' trains on lists; remove it, or take list_safeguard or kl_correction "),
    ({"stabilisers": {"list_safeguard": {}}}, "acts on lists, .* 'diffusion_dpo' trains on pairs; remove it, or take winner_safeguard or"),
    ({"objective": "kto", "stabilisers": {"winner_safeguard": {}}}, "on pairs, .* 'kto' trains on labelled; .* take kl_correction"),
    ({"objective": "densedpo", "stabilisers": {"winner_safeguard": {}}}, "'densedpo' trains on segments; .* take kl_correction "),
    ({"objective": "densedpo", "stabilisers": {"kl_correction": {}}}, "'densedpo' needs through_winner: true .* either may be the winner"),
    ({"objective": "simpo", "stabilisers": {"kl_correction": {}}}, "and objective 'simpo' has no reference"),
    ({"noising": {"name": "ddim_inversion", "step": 3}}, "has no argument 'step' .did you mean 'steps'.*; it takes: steps"),
    ({"sft_steps": 6, "steps": 6}, "sft_steps 6 of 6 steps leave none for 'diffusion_dpo'; give fewer, or objective: sft"),
    ({"sft_steps": 1, "objective": "kto"}, "'kto' has labelled; remove train.sft_steps"),
    ({"timesteps": [0.5, 0.5]}, r"timesteps \[0\.5, 0\.5\] is no range in \[0, 1\]; write \[low, high\]"),
    ({"timesteps": [-0.1, 0.5]}, "is no range in"),
    ({"lora": {"rank": 0}}, "lora.rank"),
    ({"precision": "fp8"}, "precision"),
    ({"steps": 0}, "steps"),
])  # fmt: skip
def test_bad_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Train.model_validate(values)


@pytest.mark.long
def test_two_processes_share_a_run(road: Callable[..., Config], tiny_pipeline: Path) -> None:
    """As `accelerate launch -m pipelines.cli train` starts them on GPUs (on a CPU it asks for MPI, so torchrun does it here): one lock, one
    record, the metrics of one process; again: nothing to do."""
    import os
    import subprocess

    many, one = road("many"), road("one", micro_batch_size=2)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", "pipelines.cli", "train", str(many.run.with_suffix(".yaml")),
    ]  # fmt: skip
    for words in ("effective batch 4 = 2 × 1 × 2", "nothing to do"):
        result = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=280)
        assert result.returncode == 0, result.stderr[-9000:]
        assert (result.stdout + result.stderr).count(words) == 1
    run(one, progress=QUIET)
    logs = [[json.loads(line) for line in (config.run / "train/metrics.jsonl").read_text().splitlines()] for config in (many, one)]
    assert len(logs[0]) == len(logs[1]) == 6
    for a, b in zip(*logs):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3) and a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)


def test_the_safeguard_by_the_last_layer_trains_a_unet_and_refuses_a_transformer_at_once(
    road: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where features come in patches: before anything is trained."""
    configs = [road(space, stabilisers={"winner_safeguard": {"mu": 0.9, "space": space}}) for space in ("last_layer", "output")]
    for config in configs:
        run(config, progress=QUIET)
    first, other = (metrics_of(config) for config in configs)
    assert first[0]["loss"] == other[0]["loss"] and first[-1]["loss"] != other[-1]["loss"]  # the value stays, the step is another

    def as_transformer(*given: Any, **named: Any) -> Any:
        backbone = load_model(*given, **named)
        monkeypatch.setattr(backbone, "DENOISER", "transformer")
        return backbone

    monkeypatch.setattr("pipelines.model.load_model", as_transformer)
    patches = road("patches", stabilisers={"winner_safeguard": {"space": "last_layer"}})
    with pytest.raises(ValueError, match=r"makes patches, not positions, .*set the safeguard's space to output"):
        run(patches, progress=QUIET)
    assert not (patches.run / "train/metrics.jsonl").exists()


def test_several_draws_are_another_training_and_one_is_what_was(road: Callable[..., Config]) -> None:
    """A run made before the setting was there stays current; a resume with another number is refused; the console says it."""
    assert "draws" not in Train().facts() and Train(draws=2).facts()["draws"] == 2
    heard = Heard()
    with pytest.raises(KeyboardInterrupt):
        run(road(draws=2, checkpoint_every=2), progress=Interrupting(3))
    with pytest.raises(ValueError, match="draws"):
        run(road(checkpoint_every=2), progress=QUIET)
    config = road(draws=2, checkpoint_every=2)
    run(config, progress=heard)
    assert "(per device × accumulation × ranks); lr 0.001; 2 draws of each group; beta 100" in heard.lines[0]
    record = json.loads((config.run / "train/stage.json").read_text())
    assert record["summary"]["forwards_per_step"] == 2 * 2 * 2 * 4  # networks, draws, samples, groups


def test_where_groups_of_a_forward_meet_their_number_is_a_setting() -> None:
    """AOT sorts a forward's rewards, the safeguard of a batch has one factor for all: another split is another training."""
    for objective, stabilisers, counts in (
        ("aot", {}, True),
        ("diffusion_dpo", {"winner_safeguard": {"scope": "batch"}}, True),
        ("diffusion_dpo", {"winner_safeguard": {}}, False),
    ):
        facts = [Train(objective=objective, stabilisers=stabilisers, micro_batch_size=micro).facts() for micro in (None, 2, 4)]
        assert (facts[1] != facts[2]) == counts and "micro_batch_size" not in facts[0]
