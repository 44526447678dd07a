"""export-lora: the LoRA that a run trained → one file that kohya's scripts, ComfyUI and A1111 read."""

from __future__ import annotations

from pathlib import Path

from pipelines.config import Config
from pipelines.progress import Progress
from pipelines.stage import require_stage, write_atomically


def run(config: Config, to: Path, *, progress: Progress) -> Path:
    """Writes the LoRA of RUN/train/final to the file `to` in the keys of other tools, and gives its path.

    ValueError: another ending than .safetensors, a file that is there, a training without LoRA or of a family without such keys.
    """
    from safetensors.torch import load_file, save

    from diffalign.backbones.kohya import kohya_lora
    from diffalign.model_source import LORA_FILE, PEFT_FILE

    to = to.expanduser()
    if to.suffix != ".safetensors":
        raise ValueError(
            f"--to is {str(to)!r}; other tools look for files that end in .safetensors: give {str(to.with_suffix('.safetensors'))!r}"
        )
    if to.exists():
        raise ValueError(f"{str(to)!r} is there already; give a new file, or move it away")
    trained = require_stage(config, "export-lora", "train") / "final" / LORA_FILE
    if trained.with_name(PEFT_FILE).is_file():
        raise ValueError(
            f"no keys of other tools are known for a LoRA of backbone {config.model.backbone!r}; use {trained.parent}, which peft loads "
            f"(PeftModel.from_pretrained)"
        )
    if not trained.is_file():
        raise ValueError(
            f"the run trained all weights and has no {trained.name}; for a LoRA add train: {{lora: {{rank: 16}}}} and train again"
        )
    tensors = kohya_lora(config.model.backbone, load_file(trained))
    to.parent.mkdir(parents=True, exist_ok=True)
    # Without metadata: A1111 takes a file with some, and none of kohya's own, for Stable Diffusion 1 and hides it beside another model.
    write_atomically(to, save(tensors))
    layers = sum(key.endswith((".lora_up.weight", ".lora_B.weight")) for key in tensors)
    before = f"; load {', '.join(config.model.adapters)} too, which it was trained onto" if config.model.adapters else ""
    progress.say(f"export-lora: {layers} layers in {to}{before}")
    return to
