"""Conversion of the authors' checkpoints and loading of SAM's."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import BertConfig, BertModel

from hipie.checkpoint import CheckpointError, load_state
from hipie.checkpoint.converters.conversion import convert_state
from hipie.modeling.text_encoder.tokenizer import load_tokenizer
from refersam import ReferSAM
from refersam.checkpoint_converters import OFFICIAL_REFERSAM
from refersam.modeling.criterion import MaskCriterion
from refersam.modeling.text import BertExpressionEncoder
from tests.projects.refersam.published import official_shapes

CONVERTERS = (OFFICIAL_REFERSAM,)


def build_on_meta_device(sam: str) -> ReferSAM:
    """Build the published model on the meta device."""
    with torch.device("meta"):
        bert = BertModel(BertConfig(), add_pooling_layer=False)
        text = BertExpressionEncoder(bert, load_tokenizer("bert-base-uncased"))
        return ReferSAM(sam=sam, text_encoder=text, criterion=MaskCriterion())


def empty_state(name: str) -> dict[str, torch.Tensor]:
    shapes = official_shapes(name)
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("name", ["vit_b", "vit_h"])
def test_every_published_tensor_is_converted(name):
    conversion = convert_state(empty_state(name), CONVERTERS)
    expected = build_on_meta_device(name).state_dict()
    assert conversion.layout == "official ReferSAM"
    assert {k: tuple(v.shape) for k, v in conversion.state.items()} == {
        k: tuple(v.shape) for k, v in expected.items()
    }
    assert set(conversion.dropped) == {
        "text_encoder.pooler.dense.weight",
        "text_encoder.pooler.dense.bias",
    }


@pytest.mark.parametrize(
    ("sam", "millions"), [("vit_b", 288.217242), ("vit_l", 544.9), ("vit_h", 918.6)]
)
def test_number_of_parameters_is_the_published_one(sam, millions):
    """The published number includes BERT's pooler."""
    pooler = 768 * 768 + 768
    conversion = sum(p.numel() for p in build_on_meta_device(sam).parameters()) + pooler
    assert conversion / 1e6 == pytest.approx(millions, abs=1e-6 if sam == "vit_b" else 0.06)


def large_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes for ViT-L, from those for ViT-H: 8 blocks fewer, heads of 64, not 80."""
    widths = {1280: 1024, 3840: 3072, 5120: 4096, 2560: 2048, 640: 512, 80: 64}
    return {
        name: tuple(widths.get(side, side) for side in shape)
        for name, shape in official_shapes("vit_h").items()
        if not re.search(r"\.blocks\.(2[4-9]|3\d)\.", name)
    }


def test_every_tensor_of_vit_l_is_converted():
    """Blocks with global attention have longer relative position embeddings."""
    state = {key: torch.empty(shape, device="meta") for key, shape in large_shapes().items()}
    conversion = convert_state(state, CONVERTERS).state
    expected = build_on_meta_device("vit_l").state_dict()
    assert set(conversion) == set(expected)
    other = {key for key in expected if expected[key].shape != conversion[key].shape}
    global_blocks = {
        f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for i in (5, 7, 11, 15, 17) for axis in "hw"
    }
    assert other == global_blocks
    assert all(
        len(expected[key]) == 127 for key in global_blocks if key.split(".")[2] in ("5", "11", "17")
    )


def test_tensors_are_assigned_to_the_right_parameters(make_model):
    """Tensors are identified by their values."""
    model = make_model()
    last = "vl_adapter.interactions.3."
    official_names = (
        f"{last}vl_extractor.l_norm2.weight",
        f"{last}extra_vl_extractors.1.p2l_cross_attn.q_proj.bias",
        "vl_adapter.interactions.0.extractor.query_norm.bias",
        "vl_adapter.prompt_blocks.1.p_self_attn.k_proj.bias",
        "vl_adapter.spm.fc4.bias",
    )
    renamed = convert_state(
        {name: torch.tensor(i + 1.0) for i, name in enumerate(official_names)}, CONVERTERS
    ).state
    parts = {
        1.0: model.interactor.interactions[3].pairs[0].exchange.norm_text_self.weight,
        2.0: model.interactor.interactions[3].pairs[2].exchange.text_self.q_proj.bias,
        3.0: model.interactor.interactions[0].pairs[0].extractor.norm.bias,
        4.0: model.prompter.blocks[1].self_attention.k_proj.bias,
        5.0: model.interactor.spatial_prior.projections[2].bias,
    }
    names = dict(model.named_parameters())
    for name, value in renamed.items():
        assert names[name] is parts[float(value)]


def test_sam_checkpoints_initialise_the_three_modules_of_sam(make_model):
    """All other tensors are reported as missing."""
    model = make_model(generated_weights=False)
    parts = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
    state = {
        name: torch.randn_like(value)
        for name, value in model.state_dict().items()
        if name.startswith(parts)
    }
    report = load_state(model, state, "sam.pth")
    assert report.unexpected == () and report.mismatched == ()
    assert report.loaded == len(state)
    assert not any(name.startswith(parts) for name in report.missing)
    assert torch.equal(model.mask_decoder.iou_token.weight, state["mask_decoder.iou_token.weight"])


def test_checkpoint_of_another_variant_is_rejected(make_model):
    state = {k: torch.empty(v) for k, v in official_shapes("vit_b").items() if "blocks.0" in k}
    with pytest.raises(CheckpointError, match="another model.*ReferSAM"):
        load_state(make_model(), state, "refersam_b.pth")
