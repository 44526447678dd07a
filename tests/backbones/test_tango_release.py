"""Tango's released layout, made here of tiny parts: three configs, and weights under the release's own names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from tiny_stable_diffusion import vae_name
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig, T5Config, T5EncoderModel

from diffalign.backbones import load_backbone
from diffalign.backbones.miniature.t5 import build_tokenizer, encoder_config
from diffalign.backbones.tango import Tango, TangoPipeline

PROMPTS = ["a low beep, then noise", "a high buzz"]


class Parts:
    """What the release is made of; latents are 8 channels, two levels of the autoencoder."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.tokenizer = build_tokenizer(PROMPTS, 12)
        self.text_encoder = T5EncoderModel(T5Config(**encoder_config(16, 1, 2, len(self.tokenizer)))).eval()
        self.unet = UNet2DConditionModel(
            sample_size=4, in_channels=8, out_channels=8, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=16,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=(2, 4), use_linear_projection=True,
        )  # fmt: skip
        self.vae = AutoencoderKL(
            in_channels=1, out_channels=1, latent_channels=8, block_out_channels=(32, 64), layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.9,
        )  # fmt: skip
        self.vocoder = SpeechT5HifiGan(
            SpeechT5HifiGanConfig(
                model_in_dim=64,
                upsample_initial_channel=32,
                upsample_rates=[5, 4, 2, 2, 2],
                upsample_kernel_sizes=[16, 16, 8, 4, 4],
                resblock_kernel_sizes=[3, 7, 11],
                resblock_dilation_sizes=[[1, 3, 5]] * 3,
                normalize_before=False,
            )
        ).eval()

    def weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """By the file that they are in."""
        main = {f"unet.{name}": value for name, value in self.unet.state_dict().items()}
        main |= {f"text_encoder.{name}": value for name, value in self.text_encoder.state_dict().items()}
        vae = {}
        for name, value in self.vae.state_dict().items():
            original = vae_name(name)
            is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", original) is not None
            vae[original] = value[:, :, None, None] if is_projection else value
        for name, value in self.vocoder.state_dict().items():
            if name not in ("mean", "scale"):
                vae[f"vocoder.{name.replace('upsampler.', 'ups.')}"] = value
        return {part: {name: value.clone().contiguous() for name, value in each.items()} for part, each in (("main", main), ("vae", vae))}

    def save(self, folder: Path) -> Path:
        """The release, and beside it `t5`: tokenizer and config of the text encoder, no weights."""
        (folder / "tango/configs").mkdir(parents=True)
        self.tokenizer.save_pretrained(folder / "t5")
        self.text_encoder.config.save_pretrained(folder / "t5")
        configs: dict[str, Any] = {
            "main_config": {
                "text_encoder_name": "google/flan-t5-large", "scheduler_name": "stabilityai/stable-diffusion-2-1", "unet_model_name": None,
                "unet_model_config_path": "configs/diffusion_model_config.json", "snr_gamma": 5.0,
            },
            "vae_config": {
                "image_key": "fbank", "subband": 1, "embed_dim": 8, "time_shuffle": 1, "scale_factor": 0.9,
                "ddconfig": {
                    "double_z": True, "z_channels": 8, "resolution": 256, "downsample_time": False, "in_channels": 1, "out_ch": 1, "ch": 32,
                    "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
                },
            },
            "stft_config": {
                "filter_length": 1024, "hop_length": 160, "win_length": 1024, "n_mel_channels": 64, "sampling_rate": 16000, "mel_fmin": 0,
                "mel_fmax": 8000,
            },
            "configs/diffusion_model_config": {"_class_name": "UNet2DConditionModel", **self.unet.config},
        }  # fmt: skip
        for name, config in configs.items():
            (folder / f"tango/{name}.json").write_text(json.dumps(config))
        for part, weights in self.weights().items():
            torch.save(weights, folder / f"tango/pytorch_model_{part}.bin")
        torch.save({"mel_basis": torch.zeros(64, 513)}, folder / "tango/pytorch_model_stft.bin")
        return folder / "tango"


@pytest.fixture(scope="module")
def parts() -> Parts:
    with torch.random.fork_rng():
        return Parts()


@pytest.fixture
def release(parts: Parts, tmp_path: Path) -> Path:
    return parts.save(tmp_path)


def load(folder: Path, **options: Any) -> Tango:
    found = load_backbone("tango", str(folder), text_encoder=str(folder.parent / "t5"), **options)
    assert isinstance(found, Tango)
    return found


def test_a_release_is_read_as_the_parts_that_it_was_made_of(parts: Parts, release: Path) -> None:
    loaded = load(release)
    for name in ("unet", "text_encoder", "vae", "vocoder"):
        expected, found = getattr(parts, name).state_dict(), getattr(loaded.pipeline, name).state_dict()
        assert expected.keys() == found.keys() and all(torch.equal(value, found[key]) for key, value in expected.items()), name
    assert loaded.pipeline.vae.config.scaling_factor == 0.9 and loaded.process.prediction_type == "v_prediction"  # type: ignore[attr-defined]
    assert loaded.size == (163_840,) and loaded.rate == 16_000 and (loaded.pipeline.mel.bins, loaded.pipeline.mel.peak) == (64, 0.5)
    assert loaded.pipeline.vae.tile_sample_min_size == 1024  # frames of 10 ms, where vae_config.json has a resolution of 256
    latents = loaded.encode(torch.zeros(1, 1, 3200), seeds=None)
    assert latents.shape == (1, 8, 10, 32) and loaded.decode(latents).shape == (1, 1, 3200)
    assert len(loaded.sample(PROMPTS, [1, 2], steps=2, guidance=3.0, size=(3200,))) == 2


def test_what_it_saves_is_a_folder_of_the_pipeline(release: Path, tmp_path: Path) -> None:
    loaded = load(release, dtype=torch.bfloat16)
    assert loaded.denoiser.get_submodule("conv_in").weight.dtype == torch.bfloat16
    load(release).save(tmp_path / "saved")
    TangoPipeline.from_pretrained(tmp_path / "saved")
    again = load_backbone("tango", str(tmp_path / "saved"))
    assert again.identity() == load(release).identity() and again.encoder_identity() == load(release).encoder_identity()
    with pytest.raises(ValueError, match=r"brings its text encoder, and text_encoder is 'x'; remove it from model\.settings"):
        load_backbone("tango", str(tmp_path / "saved"), text_encoder="x")


def test_safetensors_come_first_and_nothing_is_unpickled(parts: Parts, release: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (release / "harm",))

    torch.save({"unet.conv_in.weight": Harm()}, release / "pytorch_model_main.bin")
    with pytest.raises(ValueError, match=r"pytorch_model_main\.bin is damaged, or holds more than tensors, which is not opened"):
        load(release)
    save_file(parts.weights()["main"], release / "pytorch_model_main.safetensors")
    assert load(release).pipeline.unet.conv_in.weight.equal(parts.unet.conv_in.weight) and not (release / "harm").exists()


def test_the_hub_id_of_a_release_says_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    told = r"`hf download declare-lab/tango2 --local-dir models/tango2`, put the denoiser's config .* set model\.source=models/tango2$"
    with pytest.raises(FileNotFoundError, match=rf"'declare-lab/tango2' could not be loaded: .*{told}"):
        load_backbone("tango", "declare-lab/tango2")
    with pytest.raises(ValueError, match=rf"remove it from model\.settings; if declare-lab/tango2 is Tango as .*{told}"):
        load_backbone("tango", "declare-lab/tango2", text_encoder="google/flan-t5-large")
    with pytest.raises(FileNotFoundError, match=r"hub id that can be reached; fetch damaged files again$"):
        load_backbone("tango", str(tmp_path))


@pytest.mark.parametrize("file, said", [
    ("configs/diffusion_model_config.json", r"diffusion_model_config\.json is not there; copy it from the release"),
    ("vae_config.json", r"vae_config\.json is not there"),
    ("pytorch_model_vae.bin", r"pytorch_model_vae\.bin is not there, nor is it as \.safetensors; fetch the whole release"),
    ("../t5/config.json", r"needs the tokenizer and config of '.*t5'; give a folder with them as model\.settings\.text_encoder"),
])  # fmt: skip
def test_what_is_missing_is_named(release: Path, file: str, said: str) -> None:
    (release / file).unlink()
    with pytest.raises(FileNotFoundError, match=said):
        load(release)


def test_weights_and_configs_of_another_model_are_refused(parts: Parts, release: Path) -> None:
    main = parts.weights()["main"]
    torch.save({name: value for name, value in main.items() if name != "unet.conv_in.bias"}, release / "pytorch_model_main.bin")
    with pytest.raises(ValueError, match=r"the denoiser of .* lacks \['conv_in.bias'\] and has nothing beside"):
        load(release)
    torch.save(main | {"unet.conv_in.bias": torch.zeros(4)}, release / "pytorch_model_main.bin")
    with pytest.raises(ValueError, match=r"the denoiser of .* is of other sizes than its config says"):
        load(release)
    torch.save(main, release / "pytorch_model_main.bin")
    path = release / "stft_config.json"
    path.write_text(path.read_text().replace("160", "256"))
    with pytest.raises(ValueError, match=r"stft_config\.json: the spectrograms are not Tango's"):
        load(release)


def changed(path: Path, **values: Any) -> None:
    """A config with other values; None: without the key."""
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_code_beside_a_text_encoder_is_not_run(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it offered: transformers asks whoever runs it, and anything but an answer stops it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = release.parent / "t5"
    (folder / "own.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nfrom transformers import T5Config as Own\n"
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(release.parent / "modules"))
    with pytest.raises(FileNotFoundError, match="needs the tokenizer and config of"):
        load(release)
    assert not list(release.parent.rglob("ran"))


@pytest.mark.parametrize("absolute", [False, True])
def test_a_config_names_no_file_outside_of_its_folder(release: Path, absolute: bool) -> None:
    outside = (release / "configs/diffusion_model_config.json").rename(release.parent / "elsewhere.json")
    changed(release / "main_config.json", unet_model_config_path=str(outside) if absolute else "configs/../../elsewhere.json")
    with pytest.raises(ValueError, match=r"main_config\.json names '.*elsewhere\.json', which is outside of the folder"):
        load(release)


@pytest.mark.parametrize("file, values, said", [
    ("main_config.json", {"scheduler_name": None}, r"main_config\.json lacks scheduler_name; give the folder as released"),
    ("vae_config.json", {"ddconfig": {"ch": 32}}, r"vae_config\.json: ddconfig lacks attn_resolutions, z_channels, ch_mult"),
    ("stft_config.json", {"mel_fmin": None, "mel_fmax": None}, r"stft_config\.json lacks mel_fmin, mel_fmax"),
    ("main_config.json", {"scheduler_name": "some/other"}, r"names the noise levels of 'some/other'; those of Stable Diffusion 2\.1"),
    ("../t5/config.json", {"model_type": "umt5"}, r"t5' is the config of a umt5, and Tango's text encoder is a T5"),
])  # fmt: skip
def test_what_a_config_lacks_or_has_instead_is_named(release: Path, file: str, values: dict[str, Any], said: str) -> None:
    changed(release / file, **values)
    with pytest.raises(ValueError, match=said):
        load(release)
    (release / "main_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"main_config\.json is no JSON"):
        load(release)
