"""The stage pretrain on a few renders and steps: a pipeline that plain diffusers loads, a report, and an exact resume."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffalign.backbones import load_backbone
from pipelines.config import Config
from pipelines.pretrain import run
from pipelines.progress import Progress
from reward_models.worlds import load_world

TRAINING = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 2, "ema_decay": 0.9, "tracker": None}
SMALL = {
    "autoencoder_channels": [8, 8, 8, 8], "denoiser_channels": [16], "denoiser_heads": 2, "text_width": 16, "text_layers": 1,
    "text_heads": 2,
}  # fmt: skip


def config(folder: Path, **changes: Any) -> Config:
    section = {
        "world": "shapes",
        "renders": 12,
        "architecture": SMALL,
        "autoencoder": TRAINING,
        "denoiser": TRAINING,
        "check_prompts": 2,
        "min_snr": 5.0,
    }
    return Config.model_validate({"run": folder, "model": {"source": str(folder), "device": "cpu"}, "pretrain": section | changes})


class Interrupting(Progress):
    """Ctrl-C after some steps of one bar."""

    def __init__(self, name: str, after: int) -> None:
        super().__init__(silent=True)
        self.name, self.left = name, after + 1  # one call tells where the run starts

    @contextmanager
    def bar(self, description: str, total: int | None, *, done: int = 0):
        def advance(n: int = 1) -> None:
            if description == self.name:
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt

        yield advance


def test_pretrain_makes_a_pipeline_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    whole, parts = config(tmp_path / "whole"), config(tmp_path / "parts")
    run(whole, progress=Progress(silent=True))
    for name, after in (("autoencoder", 3), ("denoiser", 1), ("denoiser", 3)):
        with pytest.raises(KeyboardInterrupt):
            run(parts, progress=Interrupting(name, after))
    run(parts, progress=Progress(silent=True))
    one, two = tmp_path / "whole/pretrain", tmp_path / "parts/pretrain"
    files = [path.relative_to(one) for path in one.rglob("*") if path.name in ("metrics.jsonl",) or path.suffix == ".safetensors"]
    assert len(files) >= 8
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name

    report = json.loads((one / "report.json").read_text())
    assert {"overall", "score", "round_trip"} <= set(report)
    pipeline = StableDiffusionPipeline.from_pretrained(one / "pipeline", safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    assert {module.dtype for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    picture = pipeline("a red circle", num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0)).images[0]
    assert picture.shape == (64, 64, 3) and np.isfinite(picture).all()
    assert pipeline.vae.config.scaling_factor != 0.18215  # that of its own latents

    check_going_on(whole, tmp_path / "on")
    check_another_around_its_autoencoder(whole, tmp_path / "around")
    heard: list[str] = []
    again = Progress(silent=True)
    again.say = lambda text, style=None: heard.append(text)  # type: ignore[method-assign]
    run(whole, progress=again)
    assert heard == ["pretrain: nothing to do, it is complete"]


def check_going_on(made: Config, folder: Path) -> None:
    """A second pretraining from the first one's end: at a rate of nothing it ends where it began, autoencoder and words untouched."""
    section = made.pretrain
    assert section is not None
    start = made.run / "pretrain/pipeline"
    still = section.denoiser.model_copy(update={"learning_rate": 1e-12, "ema_decay": 0.0})
    onward = section.model_copy(update={"start": str(start), "denoiser": still})
    run(made.model_copy(update={"run": folder, "pretrain": onward}), progress=Progress(silent=True))
    assert not (folder / "pretrain/autoencoder").exists() and (folder / "pretrain/denoiser/metrics.jsonl").is_file()
    one, two = start, folder / "pretrain/pipeline"
    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert len(files) == 3 and files == sorted(path.relative_to(two) for path in two.rglob("*.safetensors"))
    for name in files:
        before, after = load_file(one / name), load_file(two / name)
        assert before.keys() == after.keys() and all(torch.allclose(before[key], after[key], atol=1e-6) for key in before), name
    assert {path.name for path in (one / "tokenizer").iterdir()} == {path.name for path in (two / "tokenizer").iterdir()}
    last = [json.loads((place / "denoiser/metrics.jsonl").read_text().splitlines()[-1]) for place in (made.run / "pretrain", two.parent)]
    assert last[0]["step"] == last[1]["step"] == 4


def check_another_around_its_autoencoder(made: Config, folder: Path) -> None:
    """A third takes the first one's autoencoder: that is the same to the bit, in float16, and the denoiser is another."""
    section = made.pretrain
    assert section is not None
    start = made.run / "pretrain/pipeline"
    other = section.model_copy(update={"autoencoder_of": str(start)})
    run(made.model_copy(update={"run": folder, "seed": 1, "pretrain": other}), progress=Progress(silent=True))
    assert not (folder / "pretrain/autoencoder").exists()
    for part, is_same in (("vae", True), ("unet", False)):
        before, after = (load_file(path / part / "diffusion_pytorch_model.safetensors") for path in (start, folder / "pretrain/pipeline"))
        assert all(torch.equal(before[key], after[key]) for key in before) == is_same, part


@pytest.mark.parametrize("name", ["start", "autoencoder_of"])
def test_going_on_with_what_is_not_here_is_refused(tmp_path: Path, name: str) -> None:
    complaint = rf"pretrain\.{name} is 'some/hub', which is no folder here; give RUN/pretrain/pipeline of a run"
    with pytest.raises(ValueError, match=complaint):
        run(config(tmp_path, **{name: "some/hub"}), progress=Progress(silent=True))


def test_two_autoencoders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pretrain\.start goes on with its own autoencoder; leave pretrain\.autoencoder_of out"):
        run(config(tmp_path, start="bundled:shapes", autoencoder_of="bundled:shapes"), progress=Progress(silent=True))


def test_a_mistake_in_the_architecture_shows_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="denoiser_chanels"):
        run(config(tmp_path, architecture={"denoiser_chanels": [16]}), progress=Progress(silent=True))
    assert not (tmp_path / "pretrain/autoencoder").exists()


def test_a_config_without_the_section_says_where_one_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no `pretrain` section; see configs/worlds/shapes.yaml"):
        run(Config.model_validate({"run": tmp_path, "model": {"source": "x/y"}}), progress=Progress(silent=True))


CLIPS = {
    "latent_channels": 4, "autoencoder_channels": 4, "autoencoder_levels": [1, 1, 2], "denoiser_heads": 2, "denoiser_head_width": 12,
    "denoiser_layers": 1, "text_width": 16, "text_layers": 1, "text_heads": 2,
}  # fmt: skip
SOUNDS = {
    "bins": 16, "latent_channels": 4, "autoencoder_channels": [8, 8, 8, 8], "denoiser_channels": [16, 16], "denoiser_heads": 2,
    "text_width": 16, "text_layers": 1, "text_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("world", "backbone", "changes"),
    [("motion", "wan", {"architecture": CLIPS, "stills": TRAINING}), ("tones", "tango", {"architecture": SOUNDS})],
)
def test_pretrain_makes_videos_and_sounds(world: str, backbone: str, changes: dict[str, Any], tmp_path: Path) -> None:
    section = config(tmp_path).pretrain
    assert section is not None
    values = section.model_dump() | {"world": world, "renders": 6, "min_snr": None} | changes
    own = Config.model_validate(
        {"run": tmp_path, "model": {"backbone": backbone, "source": str(tmp_path), "device": "cpu"}, "pretrain": values}
    )
    run(own, progress=Progress(silent=True))
    check_going_on(own, tmp_path / "on")
    folder = tmp_path / "pretrain"
    assert {"overall", "score", "round_trip"} <= set(json.loads((folder / "report.json").read_text()))
    assert (folder / "stills/metrics.jsonl").is_file() == (world == "motion")
    found = load_backbone(backbone, str(folder / "pipeline"))
    caption = load_world(world).prompts("heldout", 1, 0)[0].text
    [medium] = found.sample([caption], [1], steps=2, guidance=3.0)
    assert medium.columns == load_world(world).medium(caption, 0).columns  # of the size and rate of the world
    assert found.token_count(caption) <= found.token_limit
