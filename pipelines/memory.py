"""Giving memory back before the next model is loaded."""

from __future__ import annotations

import gc
import sys


def release_memory() -> None:
    """Frees models that nothing names any more, and hands what they held on a GPU back to it.

    Modules and their hooks hold each other, so that no count of references ends them; and torch keeps the memory of what is gone.
    """
    gc.collect()
    torch = sys.modules.get("torch")  # where it was not imported, there is nothing of its to free
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
