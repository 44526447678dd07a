"""Small T5 encoders that begin with heads that have a direction: what they say of a sentence depends on the order of its words."""

from __future__ import annotations

import pytest
import torch
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from diffalign.backbones.miniature.t5 import encoder_config, read_in_order

FAMILIES = [(T5EncoderModel, T5Config), (UMT5EncoderModel, UMT5Config)]
WORDS = torch.tensor([[5, 6, 7, 8, 9, 1]])


def encoder(family, config):
    torch.manual_seed(0)
    return family(config(**encoder_config(32, 2, 4, 16))).eval()


@pytest.mark.parametrize(("family", "config"), FAMILIES)
def test_each_head_looks_where_it_should(family, config):
    """Of six words the first layer's heads read, from the third: the second, the fourth, the two before, the three after."""
    model = encoder(family, config)
    read_in_order(model, strength=30.0)
    with torch.no_grad():
        shares = model.base_model.encoder.block[0].layer[0].SelfAttention.compute_bias(6, 6)[0].softmax(-1)[:, 2]
    before, after = [1 / 2, 1 / 2, 0, 0, 0, 0], [0, 0, 0, 1 / 3, 1 / 3, 1 / 3]
    expected = torch.tensor([[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], before, after])
    torch.testing.assert_close(shares, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("family", "config"), FAMILIES)
def test_a_word_says_what_stands_beside_it(family, config):
    """The middle word of two sentences of the same words: as T5 begins their order changes it by 6 to 8 %, then by its whole size."""

    def change(model):
        with torch.no_grad():
            one, other = model(WORDS)[0][0], model(WORDS[:, [4, 3, 2, 1, 0, 5]])[0][0]
        return float((one[2] - other[2]).norm() / one[2].norm())

    model = encoder(family, config)
    as_made = change(model)
    read_in_order(model)
    assert change(model) > 10 * as_made > 0


def test_what_has_no_such_bias_is_left_alone():
    layer = torch.nn.Linear(2, 2)
    before = layer.weight.clone()
    read_in_order(layer)
    assert torch.equal(layer.weight, before)
