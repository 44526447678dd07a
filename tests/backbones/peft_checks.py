"""What the families are asked whose LoRA diffusers does not load: peft does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from peft import PeftModel
from run_checks import PLAIN
from safetensors.torch import load_file, save_file

from diffalign.backbones import BACKBONES, load_backbone
from diffalign.model_source import PEFT_FILE
from diffalign.training.lora import Lora


class PeftChecks:
    """Beside `FamilyChecks`, whose questions on a LoRA are asked of peft."""

    family: ClassVar[str]

    def load_lora(self, pipeline: Any, folder: Path) -> None:
        """As a user of diffusers and peft does."""
        part = BACKBONES[self.family].denoiser
        setattr(pipeline, part, PeftModel.from_pretrained(getattr(pipeline, part), str(folder)))

    @pytest.mark.integration
    def test_a_config_trains_a_lora_of_it(self, folder: Path, tmp_path: Path) -> None:
        self.check_run(folder, tmp_path, "train.lora.rank=2")  # type: ignore[attr-defined]  # of FamilyChecks
        final = tmp_path / "run/train/final"
        assert (final / PEFT_FILE).is_file()
        reference = f"train.reference={{name: adapter, adapter: {final}}}"
        few = ("train.lora.rank=3", "train.steps=2", "evaluate=null", "gallery=null")
        first, _ = self.trained_by_config(folder, tmp_path / "second", *PLAIN, *few, reference)  # type: ignore[attr-defined]  # as above
        facts = json.loads((tmp_path / "second/run/train/final/reference.json").read_text())
        assert first["win_adv"] != 0 and len(facts["reference adapter"]) == 16

    def test_an_adapter_that_does_not_fit_is_refused(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        policy = self.trained(folder, Lora(rank=2))  # type: ignore[attr-defined]  # of FamilyChecks
        with pytest.raises(ValueError, match=rf"holds no {PEFT_FILE}; give a folder that training with LoRA wrote"):
            load_backbone(self.family, str(folder), adapter=tmp_path / "empty")
        with pytest.raises(ValueError, match=rf"holds no {PEFT_FILE}"):
            policy.keep_reference(str(tmp_path / "empty"), "reference")
        self.trained(folder, Lora(rank=2)).save_trained(tmp_path)  # type: ignore[attr-defined]  # of FamilyChecks
        layers = load_file(tmp_path / PEFT_FILE)
        save_file(dict(list(layers.items())[2:]), tmp_path / PEFT_FILE)
        with pytest.raises(ValueError, match=r"cannot be loaded onto .*missing adapter keys"):
            load_backbone(self.family, str(folder), adapter=tmp_path)
        with pytest.raises(ValueError, match=r"cannot be loaded onto .*missing adapter keys"):
            policy.keep_reference(str(tmp_path), "reference")
