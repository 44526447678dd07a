"""Qwen-Image-Edit-2509 and -2511: Qwen-Image-Edit whose language model sees what is edited smaller, and has its place before the prompt.

Wu et al. 2025, arXiv:2508.02324. The pipeline edits up to three images together; here it is one.
"""

from __future__ import annotations

from typing import Any, ClassVar

import PIL.Image
import torch
from diffusers import QwenImageEditPlusPipeline
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffalign.backbones import Loading
from diffalign.backbones.chat import check_torchvision
from diffalign.backbones.pipeline import load_pipeline
from diffalign.backbones.qwen_image_edit import QwenImageEdit

AREA_READ = 384 * 384  # pixels of what the language model sees


class QwenImageEditPlus(QwenImageEdit):
    """A loaded pipeline: see `Conditioned` for the contract."""

    PIPELINE: ClassVar[Any] = QwenImageEditPlusPipeline
    BEFORE = "Picture 1: <|vision_start|><|image_pad|><|vision_end|>"

    def read(self, prompts: list[str], images: list[PIL.Image.Image]) -> tuple[Tensor, Tensor]:
        """A prompt at a time: several images would be those of one."""
        pairs = zip(prompts, self.brought(images, AREA_READ), strict=True)
        rows = [self.pipeline.encode_prompt([prompt], [image], self.device)[0][0] for prompt, image in pairs]
        mask = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
        return pad_sequence(rows, batch_first=True), pad_sequence(mask, batch_first=True)


def load(source: str, loading: Loading) -> QwenImageEditPlus:
    """See `load_backbone`. ValueError where torchvision is not installed."""
    check_torchvision(source)
    return QwenImageEditPlus(load_pipeline(QwenImageEditPlus, source, loading), source)
