"""FLUX.2 [dev]: the transformer of FLUX.2 with guidance as conditioning, and Mistral, which reads pictures too, for text; rectified flow.

Black Forest Labs 2025, https://github.com/black-forest-labs/flux2.
"""

from __future__ import annotations

from typing import Any

from diffusers import Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2 import format_input

from diffalign.backbones import Loading
from diffalign.backbones.chat import check_torchvision
from diffalign.backbones.flux2 import Flux2
from diffalign.backbones.pipeline import load_pipeline


class Flux2Dev(Flux2):
    """A loaded pipeline: see `Backbone` for the contract. Latents are those of `Flux2`.

    guidance  what training tells the model
    """

    PIPELINE = Flux2Pipeline

    def __init__(self, pipeline: Any, source: str, guidance: float = 1.0):
        super().__init__(pipeline, source, guidance)

    def words(self) -> Any:
        """Beside it the pipeline's has one of pictures."""
        return self.pipeline.tokenizer.tokenizer

    def token_count(self, prompt: str) -> int:
        """With the system's message and the template around it."""
        said = format_input([prompt], self.pipeline.system_message)
        [ids] = self.pipeline.tokenizer.apply_chat_template(said, tokenize=True, return_dict=True)["input_ids"]
        return len(ids)

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        return self.conditioned(guidance, negative_prompts)


def load(source: str, loading: Loading, *, guidance: float = 1.0) -> Flux2Dev:
    """See `load_backbone`. ValueError where torchvision is not installed.

    guidance  of training, see `Flux2Dev`; sampling has its own
    """
    check_torchvision(source)
    return Flux2Dev(load_pipeline(Flux2Dev, source, loading), source, guidance)
