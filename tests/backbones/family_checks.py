"""What every family of pipelines is asked, against diffusers itself. A test file of a family derives a class `Test…` from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from run_checks import RunChecks
from safetensors.torch import load_file
from torch import Tensor, nn
from training_checks import PROMPTS, normal

from diffalign.backbones import BACKBONES, load_backbone
from diffalign.backbones.process import Diffusion
from diffalign.data.modalities.image import Image
from diffalign.training.lora import Lora, add_lora
from diffalign.training.reference import REFERENCE_ADAPTER, OtherAdapter

STEPS, NEGATIVE = 3, "a blue square"


def offload_to_meta(patch: pytest.MonkeyPatch) -> None:
    """A module that is put on the CPU comes to the meta device."""
    to = nn.Module.to
    patch.setattr(nn.Module, "to", lambda module, where: to(module, {"cpu": "meta"}[where]))


def pixels(media: Any) -> np.ndarray:
    """int (N, H, W, 3) of images, (N, T, H, W, 3) of videos."""
    return np.stack([each.pixels() if isinstance(each, Image) else each.frames() for each in media]).astype(int)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers hands tensors to numpy
class FamilyChecks(RunChecks):
    """The same questions for every family.

    size, latents    of the tiny pipeline: height and width that differ, and the shape of one sample's latents
    output, axes     the names of what the plain pipeline gives, and of the arguments that `size` is
    own              arguments of the plain pipeline's call beside prompt, size, steps, generators
    guidance, unguided   the arguments by which it is guided, and not
    refuses_negative what is said where a family takes no negative prompt
    rounding         steps of 8 bits, or 16 of sounds, that samples may differ from the plain pipeline's, where we do not batch as it does
    fused_rounding   the same, where a LoRA has become a part of the weights
    """

    output: ClassVar[str] = "images"
    axes: ClassVar[tuple[str, ...]] = ("height", "width")
    size: ClassVar[tuple[int, ...]] = (16, 24)
    latents: ClassVar[tuple[int, ...]] = (4, 8, 12)
    own: ClassVar[dict[str, Any]] = {}
    guidance: ClassVar[dict[str, Any]] = {"guidance_scale": 3.0}
    unguided: ClassVar[dict[str, Any]] = {"guidance_scale": 1.0}
    refuses_negative: ClassVar[str | None] = None
    rounding: ClassVar[int] = 0
    fused_rounding: ClassVar[int] = 1
    NOISING: ClassVar[Any] = DDPMScheduler  # with the noise levels of a family that is no flow

    @staticmethod
    def save(folder: Path) -> Path:
        raise NotImplementedError

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        """What the plain pipeline's encode_prompt gives."""
        raise NotImplementedError

    @staticmethod
    def unpacked(latents: Tensor) -> Tensor:
        """(N, C, H, W) of latents as the pipeline has them."""
        return latents

    def given_out(self, pipeline: Any, latents: Tensor) -> Tensor:
        """(N, C, H, W) of the latents that the pipeline returns."""
        return self.unpacked(latents)

    @staticmethod
    def told(timestep: Tensor) -> Tensor:
        """The timestep as `predict` takes it, of one as the scheduler has it."""
        return timestep

    def given_plainly(self, prompts: list[str]) -> dict[str, Any]:
        """The same for the plain pipeline."""
        return {}

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        with torch.random.fork_rng():
            return cls.save(tmp_path_factory.mktemp(cls.family))

    @pytest.fixture
    def loaded(self, folder: Path) -> Any:
        return load_backbone(self.family, str(folder))

    def plain(self, folder: Path, **parts: Any) -> Any:
        """What a user of diffusers alone has."""
        pipeline = DiffusionPipeline.from_pretrained(folder, **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def made(self, pipeline: Any, seeds: list[int], prompts: list[str] = PROMPTS, **options: Any) -> Any:
        size = dict(zip(self.axes, self.size, strict=True))
        arguments = {"output_type": "np", "num_inference_steps": STEPS} | size | self.own | self.guidance | self.given_plainly(prompts)
        made = pipeline(prompt=prompts, generator=[torch.Generator().manual_seed(seed) for seed in seeds], **(arguments | options))
        return getattr(made, self.output)

    def plain_pixels(self, pipeline: Any, seeds: list[int], **options: Any) -> np.ndarray:
        return np.rint(self.made(pipeline, seeds, **options) * 255).astype(int)

    def our_pixels(self, backbone: Any, seeds: list[int], prompts: list[str] = PROMPTS, **options: Any) -> np.ndarray:
        return pixels(backbone.sample(prompts, seeds, steps=STEPS, guidance=3.0, size=self.size, **self.given(prompts), **options))

    # The autoencoder and the encoders

    def test_latents_are_scaled_as_the_pipeline_unscales_them(self, loaded: Any, folder: Path) -> None:
        pipeline = self.plain(folder)
        latents, image = (self.made(pipeline, [1, 2], output_type=kind) for kind in ("latent", "np"))
        latents = self.given_out(pipeline, latents)
        assert latents.shape == (2, *self.latents)
        ours = loaded.decode(latents)
        assert torch.allclose((ours / 2 + 0.5).movedim(1, -1), torch.from_numpy(image), atol=1e-5)
        media = normal(2, 3, *self.size).clamp(-1, 1)
        again = loaded.encode(media, seeds=None)
        assert again.shape == (2, *self.latents)
        with torch.no_grad():
            whole = self.reconstructed(pipeline.vae, media)
        assert torch.allclose(loaded.decode(again), whole.clamp(-1, 1), atol=1e-4)
        time = self.size[:-2]
        assert loaded.whole(tuple(side + 1 for side in self.size)) == self.size and loaded.whole((*time, 1, 1)) == (*time, 0, 0)
        black = pixels(loaded.media(torch.stack([torch.full((3, *time, 4, 6), -1.0), torch.full((3, *time, 4, 6), 1.0)])))
        assert black.shape == (2, *time, 4, 6, 3) and black[0].max() == 0 and black[1].min() == 255

    @staticmethod
    def reconstructed(vae: Any, media: Tensor) -> Tensor:
        """What the autoencoder alone makes of media."""
        return vae.decode(vae.encode(media).latent_dist.mean).sample

    def test_embeds_are_the_pipeline_s(self, loaded: Any, folder: Path) -> None:
        expected, found = self.embeds_of(self.plain(folder), PROMPTS), loaded.embed(PROMPTS)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.allclose(found[name].to(value.dtype), value, atol=1e-6), name
        alone = [loaded.embed([prompt]) for prompt in PROMPTS]
        for name, value in found.items():  # so batches of different prompts join in the cache
            assert torch.allclose(value, torch.cat([each[name] for each in alone]), atol=1e-5), name
        assert loaded.token_count("a red circle") <= loaded.token_limit < loaded.token_count("a red circle " * 200)

    def test_the_limit_of_tokens_is_where_the_encoder_cuts(self, loaded: Any) -> None:
        """The last word of a prompt of just so many tokens is read; that of one a dozen tokens longer is not."""
        words = ["a "] * (2 * loaded.token_limit)
        [fits] = [count for count in range(len(words)) if loaded.token_count("".join(words[:count]) + "red") == loaded.token_limit]

        def tells_apart(count: int) -> bool:
            found = [loaded.embed(["".join(words[:count]) + last])["prompt_embeds"] for last in ("red", "blue")]
            return not torch.allclose(*found, atol=1e-6)

        assert tells_apart(fits) and not tells_apart(fits + 12)  # whatever a template adds behind

    # The denoiser

    @pytest.mark.parity
    def test_predict_is_what_the_pipeline_s_steps_take(self, loaded: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every x_t of an unguided path, with what the pipeline hands its scheduler there."""
        pipeline = self.plain(folder)
        calls = spied(pipeline, monkeypatch)
        self.made(pipeline, [1, 2], **self.unguided)
        assert len(calls) == STEPS and calls[0][2].std() > 0
        embeds = self.embedded(loaded, PROMPTS)
        for sample, timestep, output in calls:
            with torch.no_grad():
                ours = loaded.predict(loaded.denoiser, self.unpacked(sample), self.told(timestep).expand(len(sample)), embeds)
            assert torch.allclose(ours, self.unpacked(output), atol=1e-5)

    def test_each_sample_has_its_own_timestep_and_prompt(self, loaded: Any) -> None:
        noised, timestep = normal(2, *self.latents), torch.tensor([30.0, 700.0])
        with torch.no_grad():
            embeds = self.embedded(loaded, PROMPTS)
            own = [self.embedded(loaded, [prompt]) for prompt in PROMPTS]
            together = loaded.predict(loaded.denoiser, noised, timestep, embeds)
            alone = [loaded.predict(loaded.denoiser, noised[i : i + 1], timestep[i : i + 1], own[i]) for i in range(2)]
            other = loaded.predict(loaded.denoiser, noised, timestep.flip(0), embeds)
        assert torch.allclose(together, torch.cat(alone), atol=1e-5) and not torch.allclose(together, other, atol=1e-4)

    def test_features_lie_at_the_positions_that_they_make(self, loaded: Any) -> None:
        """Of what goes into the head, the prediction at a position turns on the vector that lies there, and on that of no other token."""
        denoiser, taken = loaded.denoiser, []
        loaded.head(denoiser).register_forward_pre_hook(lambda head, inputs: taken.append(inputs[0].requires_grad_()) or tuple(taken))
        predicted = loaded.predict(denoiser, normal(1, *self.latents), torch.tensor([400.0]), self.embedded(loaded, PROMPTS[:1]))
        [features], size = taken, self.latents[1:]
        laid = loaded.laid_out(features, size)
        assert laid.shape[:2] == (1, loaded.head(denoiser).weight.shape[1]) and loaded.by_position(laid[:, :1], size).shape == (1, 1, *size)
        for place in (tuple(extent - 1 for extent in size), tuple(extent // 2 for extent in size)):  # no first frame, which may be given
            [gradient] = torch.autograd.grad(predicted[(0, slice(None), *place)].square().sum(), features, retain_graph=True)
            turned = loaded.by_position(loaded.laid_out(gradient, size), size)[0].abs().sum(0).nonzero()
            offsets = (turned - torch.tensor(place)).abs().amax(0)
            assert tuple(place) in {tuple(each) for each in turned.tolist()}
            reach = (1,) * len(size) if loaded.DENOISER == "unet" else tuple(patch - 1 for patch in loaded.patches(len(size)))
            assert (offsets <= torch.tensor(reach)).all()  # a UNet's last layer is a 3×3 convolution

    def test_predict_needs_nothing_that_is_offloaded(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The meta device, which holds no values, stands for the machine's memory."""
        loaded = load_backbone(self.family, str(folder))
        with torch.no_grad():
            embeds, noised, timestep = self.embedded(loaded, PROMPTS), normal(2, *self.latents), torch.tensor([300.0, 700.0])
            before = loaded.predict(loaded.denoiser, noised, timestep, embeds)
            with monkeypatch.context() as patch:
                offload_to_meta(patch)
                loaded.offload_encoders()
            assert torch.equal(loaded.predict(loaded.denoiser, noised, timestep, embeds), before)
        for part, module in loaded.pipeline.components.items():
            if isinstance(module, nn.Module):
                where = {tensor.device.type for tensor in module.parameters()}
                assert where <= ({"cpu"} if module is loaded.denoiser or part in loaded.BESIDE else {"meta"}), part

    # The process

    def test_noise_and_target_are_the_scheduler_s(self, loaded: Any) -> None:
        x0, epsilon, own = normal(3, *self.latents), normal(3, *self.latents, seed=1), loaded.pipeline.scheduler
        if isinstance(loaded.process, Diffusion):
            training: Any = self.NOISING.from_config(own.config)
            timestep = torch.tensor([0, 500, 999])
            noised = training.add_noise(x0, epsilon, timestep)
            target = epsilon if own.config.prediction_type == "epsilon" else training.get_velocity(x0, epsilon, timestep)
        else:
            training = FlowMatchEulerDiscreteScheduler(shift=3.0)
            training.set_timesteps(8)
            timestep = training.timesteps[[0, 3, 7]]
            noised, target = training.scale_noise(x0, timestep, epsilon), epsilon - x0
        assert torch.allclose(loaded.process.noise(x0, epsilon, timestep), noised, atol=1e-6)
        assert torch.allclose(loaded.process.target(x0, epsilon, timestep), target, atol=1e-6)
        assert torch.allclose(loaded.process.clean(target, noised, timestep), x0, atol=1e-4)

    # Samples

    def test_sample_is_plain_diffusers_and_depends_on_prompt_and_seed_alone(self, loaded: Any, folder: Path) -> None:
        ours = self.our_pixels(loaded, [1, 2])
        assert np.abs(ours - self.plain_pixels(self.plain(folder), [1, 2]).reshape(ours.shape)).max() <= self.rounding
        assert ours.shape == (2, *self.size, 3) and ours.std() > 1
        assert np.abs(ours[1] - self.our_pixels(loaded, [2], PROMPTS[1:])[0]).max() <= 1
        with pytest.raises(ValueError, match="2 prompts and 1 seeds; give one seed per prompt"):
            self.our_pixels(loaded, [1])

    def test_a_negative_prompt_is_the_pipeline_s(self, loaded: Any, folder: Path) -> None:
        if self.refuses_negative is not None:
            with pytest.raises(ValueError, match=self.refuses_negative):
                self.our_pixels(loaded, [1, 2], negative_prompt=NEGATIVE)
            return
        ours = self.our_pixels(loaded, [1, 2], negative_prompt=NEGATIVE)
        plain = self.plain_pixels(self.plain(folder), [1, 2], negative_prompt=[NEGATIVE] * 2).reshape(ours.shape)
        assert np.abs(ours - plain).max() <= self.rounding
        assert np.abs(ours - self.our_pixels(loaded, [1, 2])).max() > self.rounding

    # What training leaves

    def trained(self, folder: Path, lora: Lora | None) -> Any:
        backbone = load_backbone(self.family, str(folder))
        if lora is not None:
            add_lora(backbone.denoiser, lora, 0, BACKBONES[self.family].lora_targets, BACKBONES[self.family].unreached)
        with torch.no_grad():
            for index, (name, parameter) in enumerate(backbone.denoiser.named_parameters()):
                if lora is None or "lora_" in name:
                    parameter.add_(0.3 * normal(*parameter.shape, seed=index))
        return backbone

    def load_lora(self, pipeline: Any, folder: Path) -> None:
        """As a user of diffusers alone does."""
        pipeline.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")

    def test_a_lora_loads_in_plain_diffusers(self, folder: Path, tmp_path: Path) -> None:
        backbone = self.trained(folder, Lora(rank=2, alpha=4))
        ours = self.our_pixels(backbone, [1, 2])
        assert np.abs(ours - self.plain_pixels(self.plain(folder), [1, 2])).max() > 4  # the adapter does something
        backbone.save_trained(tmp_path)
        other = self.plain(folder)
        self.load_lora(other, tmp_path)
        assert np.abs(ours - self.plain_pixels(other, [1, 2]).reshape(ours.shape)).max() <= self.fused_rounding
        fused = load_backbone(self.family, str(folder), adapter=tmp_path)
        assert np.abs(ours - self.our_pixels(fused, [1, 2])).max() <= self.fused_rounding
        assert fused.identity() != backbone.identity() == load_backbone(self.family, str(folder)).identity()

    def predicted(self, backbone: Any, denoiser: Any = None) -> Tensor:
        """The prediction of a backbone's own denoiser, or of another one."""
        x, timestep = normal(2, *self.latents), torch.tensor([300.0, 700.0])
        with torch.no_grad():
            return backbone.predict(denoiser or backbone.denoiser, x, timestep, self.embedded(backbone, PROMPTS))

    def test_a_dora_loads_in_plain_diffusers(self, loaded: Any, folder: Path, tmp_path: Path) -> None:
        """With magnitudes that are not the base's, α twice the rank, and once more fused by us."""
        backbone = self.trained(folder, Lora(rank=2, alpha=4, dora=True))
        base, ours = self.predicted(loaded), self.predicted(backbone)
        backbone.save_trained(tmp_path)
        [file] = tmp_path.glob("*.safetensors")
        assert any("magnitude" in key or "dora" in key for key in load_file(file))
        other = self.plain(folder)
        self.load_lora(other, tmp_path)
        fused = load_backbone(self.family, str(folder), adapter=tmp_path)
        for found in (self.predicted(loaded, getattr(other, BACKBONES[self.family].denoiser)), self.predicted(fused)):
            assert torch.allclose(found, ours, atol=1e-4 * float((ours - base).abs().max()))

    def test_another_adapter_is_the_reference(self, folder: Path, tmp_path: Path) -> None:
        """It predicts what the base with that adapter merged does; the policy's own is the one that is trained and saved."""
        self.trained(folder, Lora(rank=3, alpha=6)).save_trained(tmp_path / "other")
        policy, merged = self.trained(folder, Lora(rank=2)), load_backbone(self.family, str(folder), adapter=tmp_path / "other")
        policy.save_trained(tmp_path / "before")
        trained = {name for name, parameter in policy.denoiser.named_parameters() if parameter.requires_grad}
        own, other = self.predicted(policy), self.predicted(merged)
        assert len(policy.keep_reference(str(tmp_path / "other"), REFERENCE_ADAPTER)) == 16
        reference = OtherAdapter(policy.denoiser)
        with reference.use():
            assert torch.allclose(self.predicted(policy), other, atol=1e-4 * float((other - own).abs().max()))  # fusing rounds
        assert torch.equal(self.predicted(policy), own)
        assert {name for name, parameter in policy.denoiser.named_parameters() if parameter.requires_grad} == trained
        policy.save_trained(tmp_path / "after")
        [file] = (tmp_path / "before").glob("*.safetensors")
        assert file.read_bytes() == (tmp_path / "after" / file.name).read_bytes()

    def test_beside_rounded_weights_an_adapter_stays_whole(self, folder: Path, tmp_path: Path) -> None:
        """A small one, of which fusing would round a part away: the model is that of who loads both with diffusers, or peft."""
        small = self.trained(folder, Lora(rank=2))
        with torch.no_grad():
            for name, parameter in small.denoiser.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(0.001)
        small.save_trained(tmp_path)
        ours, plain = (load_backbone(self.family, str(folder), dtype=torch.bfloat16, adapter=each) for each in (tmp_path, None))
        assert not any(parameter.requires_grad for parameter in ours.denoiser.parameters())
        assert ours.identity() not in (plain.identity(), small.identity())
        with pytest.raises(ValueError, match=r"has adapters beside weights of .*; load it in float32"):
            ours.save(tmp_path / "whole")
        found, base = (self.predicted_in_float32(each) for each in (ours, plain))
        plain = load_backbone(self.family, str(folder), dtype=torch.bfloat16)
        self.load_lora(plain.pipeline, tmp_path)
        plain.denoiser = getattr(plain.pipeline, BACKBONES[self.family].denoiser)
        assert float((found - self.predicted_in_float32(plain)).norm()) <= 0.02 * float((found - base).norm())

    def predicted_in_float32(self, backbone: Any) -> Tensor:
        """The prediction of rounded weights, itself not rounded."""
        backbone.pipeline.to(torch.float32)
        return self.predicted(backbone)

    def test_full_weights_load_in_plain_diffusers(self, folder: Path, tmp_path: Path) -> None:
        backbone = self.trained(folder, None)
        ours, part = self.our_pixels(backbone, [1, 2]), BACKBONES[self.family].denoiser
        assert np.abs(ours - self.plain_pixels(self.plain(folder), [1, 2])).max() > 4
        backbone.save_trained(tmp_path)
        denoiser = type(backbone.denoiser).from_pretrained(tmp_path / part)
        assert np.abs(ours - self.plain_pixels(self.plain(folder, **{part: denoiser}), [1, 2]).reshape(ours.shape)).max() <= self.rounding
        again = load_backbone(self.family, str(folder), denoiser=tmp_path)
        assert np.array_equal(ours, self.our_pixels(again, [1, 2]))
        assert again.encoder_identity() == backbone.encoder_identity()
        backbone.save(tmp_path / "whole")
        assert load_backbone(self.family, str(tmp_path / "whole")).identity() == backbone.identity()


def spied(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """A list that fills with (x_t as the denoiser takes it, timestep, prediction) of every step while the pipeline samples."""
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    scheduler, scaled = pipeline.scheduler, [None]
    step: Callable[..., Any] = scheduler.step

    def watched_step(output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        calls.append(((sample if scaled[0] is None else scaled[0]).clone(), torch.as_tensor(timestep).clone(), output.clone()))
        return step(output, timestep, sample, **options)

    monkeypatch.setattr(scheduler, "step", watched_step)
    if hasattr(scheduler, "scale_model_input"):
        scale = scheduler.scale_model_input

        def watched_scale(sample: Tensor, timestep: Any) -> Tensor:
            scaled[0] = scale(sample, timestep)
            return scaled[0]

        monkeypatch.setattr(scheduler, "scale_model_input", watched_scale)
    return calls
