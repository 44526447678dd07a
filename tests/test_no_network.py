"""What `no_network` notices."""

from __future__ import annotations

from contextlib import suppress

import pytest
from no_network import no_network


@pytest.mark.parametrize("library", ["huggingface_hub", "transformers", "diffusers"])
def test_a_call_to_the_hub_is_noticed_where_its_caller_goes_on(library: str) -> None:
    import diffusers
    import huggingface_hub
    import transformers

    calls = {
        "huggingface_hub": lambda: huggingface_hub.hf_hub_download("owner/nowhere", "config.json"),
        "transformers": lambda: transformers.AutoConfig.from_pretrained("owner/nowhere"),
        "diffusers": lambda: diffusers.DiffusionPipeline.from_pretrained("owner/nowhere"),
    }
    with pytest.raises(AssertionError, match=r"the network was tried: .*huggingface\.co"), no_network(), suppress(Exception):
        calls[library]()
    assert huggingface_hub.constants.HF_HUB_OFFLINE
