"""Adapters and references: who is frozen, who is float32, and what is restored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffalign.backbones import ATTENTION, load_backbone
from diffalign.training.lora import Lora, add_lora, parts_of, unfreeze
from diffalign.training.reference import REFERENCE_ADAPTER, AdapterOff, FrozenCopy, OtherAdapter, RestingCopy, frozen_copy


def inputs() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 8, 8, generator=draw), torch.tensor([3, 700]), {"prompt_embeds": torch.randn(2, 8, 32, generator=draw)}


def test_an_adapter_starts_as_the_identity_and_alone_is_trained(tiny_pipeline: Path) -> None:
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline))
    with torch.no_grad():
        before = backbone.predict(backbone.denoiser, *inputs())
    state = torch.get_rng_state()
    add_lora(backbone.denoiser, Lora(rank=3), seed=5)
    assert torch.equal(state, torch.get_rng_state())  # its random numbers are its own
    with torch.no_grad():
        assert torch.equal(backbone.predict(backbone.denoiser, *inputs()), before)
    trained = {name for name, parameter in backbone.denoiser.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    layers = {name.rsplit(".lora_", 1)[0].split(".", 1)[1].split(".attn")[-1][2:] for name in trained}
    assert layers == {"to_q", "to_k", "to_v", "to_out.0"}


def test_the_seed_decides_the_adapter(tiny_pipeline: Path) -> None:
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(len(drawn))
        backbone = load_backbone("stable_diffusion", str(tiny_pipeline))
        add_lora(backbone.denoiser, Lora(rank=2), seed)
        drawn.append(torch.cat([parameter.flatten() for name, parameter in backbone.denoiser.named_parameters() if "lora_A" in name]))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_an_adapter_on_a_half_precision_base_is_float32(tiny_pipeline: Path) -> None:
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline), dtype=torch.bfloat16)
    add_lora(backbone.denoiser, Lora(rank=2), 0)
    dtypes = {(parameter.requires_grad, parameter.dtype) for parameter in backbone.denoiser.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}


def test_what_no_gradient_reaches_is_not_trained_whoever_names_it(tiny_pipeline: Path) -> None:
    """A last block by -1; what a model does not have is left out."""
    unreached = ("down_blocks.-1.resnets.0", "mid_block.attentions.-1.proj_in", "down_blocks.-1.nowhere", "text.-1.resnets")
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline))
    last = f"down_blocks.{len(backbone.denoiser.get_submodule('down_blocks')._modules) - 1}.resnets.0"
    out = [last, "mid_block.attentions.0.proj_in"]
    assert parts_of(backbone.denoiser, unreached) == out
    unfreeze(backbone.denoiser, unreached)
    frozen = {name for name, parameter in backbone.denoiser.named_parameters() if not parameter.requires_grad}
    assert frozen and {name for name in frozen if not name.startswith(tuple(f"{part}." for part in out))} == set()
    add_lora(backbone.denoiser, Lora(rank=2, targets=("proj_in", "conv1")), 0, unreached=unreached)
    adapted = {name.split(".lora_")[0] for name, _ in backbone.denoiser.named_parameters() if "lora_" in name}
    assert len(adapted) > 2 and not {f"{last}.conv1", "mid_block.attentions.0.proj_in"} & adapted


def test_targets_that_match_nothing_are_named_with_those_that_exist(tiny_pipeline: Path) -> None:
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline))
    with pytest.raises(ValueError, match=r"LoRA targets \['to_x'\] match no layer of UNet2DConditionModel; its layers end in: .*to_q"):
        add_lora(backbone.denoiser, Lora(targets=("to_q", "to_x")), 0)
    with pytest.raises(
        ValueError, match=r"LoRA targets \['add_k_proj'\] match no layer of UNet2DConditionModel; its layers end in: .*to_q"
    ):
        add_lora(backbone.denoiser, Lora(targets=("add_k_proj",)), 0)
    assert not any("lora_" in name for name, _ in backbone.denoiser.named_parameters())


def test_layers_of_another_input_are_left_out_where_a_model_has_none(tiny_pipeline: Path) -> None:
    adapted = []
    for targets in (ATTENTION, (*ATTENTION, "add_k_proj")):
        backbone = load_backbone("stable_diffusion", str(tiny_pipeline))
        add_lora(backbone.denoiser, Lora(rank=2, targets=targets), 0)
        adapted.append({name for name, _ in backbone.denoiser.named_parameters() if "lora_" in name})
    assert adapted[0] and adapted[0] == adapted[1]
    with pytest.raises(ValueError, match=r"LoRA targets \['add_k_proj'\] match no layer"):  # of a config's own choice nothing is left out
        add_lora(load_backbone("stable_diffusion", str(tiny_pipeline)).denoiser, Lora(rank=2, targets=("to_q", "add_k_proj")), 0)


@pytest.mark.parametrize("training", [True, False])
def test_adapter_off_is_the_base_and_leaves_everything_as_it_was(training: bool, tiny_pipeline: Path) -> None:
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline))
    with torch.no_grad():
        base = backbone.predict(backbone.denoiser, *inputs())
    add_lora(backbone.denoiser, Lora(rank=2), 0)
    with torch.no_grad():
        for parameter in backbone.denoiser.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    backbone.denoiser.train(training)
    flags = {name: parameter.requires_grad for name, parameter in backbone.denoiser.named_parameters()}
    with torch.no_grad():
        policy = backbone.predict(backbone.denoiser, *inputs())
    assert not torch.equal(policy, base)
    reference = AdapterOff(backbone.denoiser)
    for _ in range(2):
        with reference.use() as denoiser:
            assert not torch.is_grad_enabled() and not denoiser.training
            assert torch.equal(backbone.predict(denoiser, *inputs()), base)
        with torch.no_grad():
            assert torch.equal(backbone.predict(backbone.denoiser, *inputs()), policy)
    with pytest.raises(KeyError), reference.use():
        raise KeyError  # also after an error the policy is itself again
    with torch.no_grad():
        assert torch.equal(backbone.predict(backbone.denoiser, *inputs()), policy)
    assert backbone.denoiser.training is training
    assert flags == {name: parameter.requires_grad for name, parameter in backbone.denoiser.named_parameters()}


def test_an_adapter_is_trained_beside_the_model_s_own(tiny_pipeline: Path, tmp_path: Path) -> None:
    """On rounded weights, where those stay beside: the reference has them, another one too, and what is saved is the policy's alone."""

    def trained(folder: Path, targets: tuple[str, ...], seed: int) -> Path:
        backbone = load_backbone("stable_diffusion", str(tiny_pipeline))
        add_lora(backbone.denoiser, Lora(rank=2, targets=targets), seed)
        with torch.no_grad():
            for parameter in backbone.denoiser.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05)
        backbone.save_trained(folder)
        return folder

    def predicted() -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return backbone.predict(backbone.denoiser, *inputs())

    first, second = trained(tmp_path / "first", ("to_q", "conv1"), 1), trained(tmp_path / "second", ("to_q", "to_k"), 2)
    other = trained(tmp_path / "other", ("to_v",), 3)
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline), dtype=torch.bfloat16, adapter=[first, second])
    identity, before = backbone.identity(), predicted()
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline), dtype=torch.bfloat16, adapter=[first, second, other])
    with_other = predicted()
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline), dtype=torch.bfloat16, adapter=[first, second])
    add_lora(backbone.denoiser, Lora(rank=3, targets=("to_q", "to_out.0")), 0)
    backbone.keep_reference(str(other), REFERENCE_ADAPTER)
    to_other = OtherAdapter(backbone.denoiser)
    trainable = {name for name, parameter in backbone.denoiser.named_parameters() if parameter.requires_grad}
    assert trainable and all(".default." in name for name in trainable) and backbone.identity() == identity
    assert torch.equal(predicted(), before)
    with torch.no_grad():
        for index, parameter in enumerate(backbone.denoiser.parameters()):
            if parameter.requires_grad:
                parameter.add_(0.05 * (-1) ** index)
    policy = predicted()
    for reference, expected in ((AdapterOff(backbone.denoiser), before), (to_other, with_other)):
        with reference.use():
            assert torch.equal(predicted(), expected)
        assert torch.equal(predicted(), policy) and not torch.equal(policy, expected)
        assert trainable == {name for name, parameter in backbone.denoiser.named_parameters() if parameter.requires_grad}
    with pytest.raises(ValueError, match="the denoiser has an adapter to train already; load it anew"):
        add_lora(backbone.denoiser, Lora(), 0)
    backbone.save_trained(tmp_path / "policy")
    assert len(load_file(tmp_path / "policy/pytorch_lora_weights.safetensors")) == len(trainable)
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline), dtype=torch.bfloat16, adapter=[first, second, tmp_path / "policy"])
    assert float((predicted() - policy).norm()) < 0.02 * float((policy - before).norm())  # its factors are rounded


def test_adapter_off_needs_an_adapter(tiny_pipeline: Path) -> None:
    with pytest.raises(ValueError, match="has no LoRA adapter to switch off; add one, or use a frozen copy"):
        AdapterOff(load_backbone("stable_diffusion", str(tiny_pipeline)).denoiser)


def test_a_frozen_copy_does_not_follow_the_policy(tiny_pipeline: Path) -> None:
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline))
    reference = FrozenCopy(backbone.denoiser)
    with torch.no_grad():
        before = backbone.predict(backbone.denoiser, *inputs())
        backbone.denoiser.requires_grad_(True).train()
        for parameter in backbone.denoiser.parameters():
            parameter.add_(0.1)
    with reference.use() as denoiser:
        assert torch.equal(backbone.predict(denoiser, *inputs()), before)
        assert not any(parameter.requires_grad for parameter in denoiser.parameters()) and not denoiser.training
    assert next(FrozenCopy(backbone.denoiser, torch.bfloat16).denoiser.parameters()).dtype == torch.bfloat16


def test_a_resting_copy_predicts_what_a_frozen_one_does(tiny_pipeline: Path) -> None:
    """Also after the policy has moved, twice in a row, and after an error."""
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline))
    frozen, resting = frozen_copy(backbone.denoiser), frozen_copy(backbone.denoiser, rests_on_cpu=True)
    assert isinstance(frozen, FrozenCopy) and isinstance(resting, RestingCopy)
    with torch.no_grad():
        for parameter in backbone.denoiser.parameters():
            parameter.add_(0.1)
    with frozen.use() as denoiser:
        expected = backbone.predict(denoiser, *inputs())
    with pytest.raises(KeyError), resting.use() as denoiser:
        backbone.predict(denoiser, *inputs())
        raise KeyError
    for _ in range(2):
        with resting.use() as denoiser:
            assert not torch.is_grad_enabled() and not denoiser.training
            assert not any(parameter.requires_grad for parameter in denoiser.parameters())
            assert torch.equal(backbone.predict(denoiser, *inputs()), expected)
    half = frozen_copy(backbone.denoiser, torch.bfloat16, rests_on_cpu=True)
    assert isinstance(half, RestingCopy) and {tensor.dtype for tensor in half.resting} == {torch.bfloat16}


def test_a_resting_copy_is_elsewhere_from_its_first_run_to_the_end_of_its_use(tiny_pipeline: Path) -> None:
    """By the places in memory, for the policy's device may be the same: what rests stays where it is, and is copied once a use."""
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline))
    resting = RestingCopy(backbone.denoiser)

    def places() -> list[int]:
        return [tensor.data_ptr() for tensor in (*resting.denoiser.parameters(), *resting.denoiser.buffers())]

    at_rest = places()
    for _ in range(2):
        with resting.use() as denoiser:
            assert places() == at_rest  # what a cache remembers needs no run, and moves nothing
            backbone.predict(denoiser, *inputs())
            moved = places()
            assert not set(moved) & set(at_rest)
            backbone.predict(denoiser, *inputs())
            assert places() == moved
        assert places() == at_rest
    assert all(torch.equal(own, other) for own, other in zip(resting.denoiser.parameters(), backbone.denoiser.parameters()))
