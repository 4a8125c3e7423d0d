"""Which weights of the language model are trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hipie.errors import InputError
from hipie_reasoning.modeling.adapters import make_trainable
from hipie_reasoning.modeling.nano_language_model import build_small_language_model

pytest.importorskip("peft")
LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": ("q_proj", "v_proj")}


def trained(model: nn.Module) -> set[str]:
    return {name for name, each in model.named_parameters() if each.requires_grad}


def test_adapters_are_in_the_text_decoder_only() -> None:
    """Its q_proj and v_proj have namesakes in the image encoder."""
    model, _ = build_small_language_model("tiny")
    make_trainable(model, **LORA)
    names = trained(model)
    adapters = {name for name in names if "lora_" in name}
    assert len(adapters) == 2 * 2 * 2  # layers, projections, matrices
    assert all(".language_model.layers." in name for name in adapters)
    assert names - adapters == {"model.language_model.embed_tokens.weight", "lm_head.weight"}


def test_adapters_add_the_scaled_product_of_their_matrices() -> None:
    model, _ = build_small_language_model("tiny")
    linear = model.model.language_model.layers[0].self_attn.q_proj
    make_trainable(model, **LORA)
    adapted = model.model.language_model.layers[0].self_attn.q_proj
    down, up = adapted.lora_A["default"].weight, adapted.lora_B["default"].weight
    nn.init.normal_(up)
    x = torch.randn(3, 32)
    expected = x @ linear.weight.t() + 8.0 / 4 * (x @ down.t() @ up.t())
    torch.testing.assert_close(adapted(x), expected, atol=1e-5, rtol=1e-5)


def test_rank_0_trains_embeddings_and_rank_minus_1_everything() -> None:
    model, _ = build_small_language_model("tiny")
    make_trainable(model, **{**LORA, "rank": 0})
    assert trained(model) == {"model.language_model.embed_tokens.weight", "lm_head.weight"}
    make_trainable(model, **{**LORA, "rank": -1})
    assert trained(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("qkv",)}, "names no linear layer of the language model; it has down_proj"),
        ({"rank": -2}, "RANK is -2"),
    ],
)
def test_mistakes_are_named(changes, message) -> None:
    model, _ = build_small_language_model("tiny")
    with pytest.raises(InputError, match=message):
        make_trainable(model, **{**LORA, **changes})
