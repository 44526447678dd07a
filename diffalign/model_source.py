"""Where the weights of a model are: `bundled:NAME`, a path, or a hub id."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name
PEFT_FILE = "adapter_model.safetensors"  # peft's, beside adapter_config.json, of families whose LoRA diffusers does not load


def holds_lora(folder: Path) -> bool:
    """Whether training with LoRA wrote a folder."""
    return any((folder / name).is_file() for name in (LORA_FILE, PEFT_FILE))


def source_path(source: str) -> Path | None:
    """The file or folder that a source names; None for a hub id. `bundled:NAME` is diffalign/assets/NAME.

    FileNotFoundError for a bundled name that does not exist and for a path that is not there.
    """
    if source.startswith("bundled:"):
        known = sorted(f"bundled:{path.parent.name}" for path in ASSETS.glob("*/model_index.json"))
        if source not in known:
            raise FileNotFoundError(f"no bundled model {source!r}; there are: {', '.join(known) or 'none'}")
        return ASSETS / source.removeprefix("bundled:")
    path = Path(source).expanduser()
    if path.exists():
        return path
    if source.startswith((".", "/", "~")) or source.endswith((".safetensors", ".ckpt", "/")) or source.count("/") > 1:
        raise FileNotFoundError(
            f"model source {source!r} does not exist; give a diffusers folder, a .safetensors file, bundled:NAME, "
            f"or a hub id like 'owner/name'"
        )
    return None
