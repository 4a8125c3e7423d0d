"""The authors' names and shapes all have their place, and no place stays empty."""

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


def without_memory(sam: str) -> ReferSAM:
    """The published model, without any numbers."""
    with torch.device("meta"):
        bert = BertModel(BertConfig(), add_pooling_layer=False)
        text = BertExpressionEncoder(bert, load_tokenizer("bert-base-uncased"))
        return ReferSAM(sam=sam, text_encoder=text, criterion=MaskCriterion())


def empty_state(name: str) -> dict[str, torch.Tensor]:
    shapes = official_shapes(name)
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("name", ["vit_b", "vit_h"])
def test_every_published_tensor_has_a_place(name):
    found = convert_state(empty_state(name), CONVERTERS)
    own = without_memory(name).state_dict()
    assert found.layout == "official ReferSAM"
    assert {k: tuple(v.shape) for k, v in found.state.items()} == {
        k: tuple(v.shape) for k, v in own.items()
    }
    assert set(found.dropped) == {
        "text_encoder.pooler.dense.weight",
        "text_encoder.pooler.dense.bias",
    }


@pytest.mark.parametrize(
    ("sam", "millions"), [("vit_b", 288.217242), ("vit_l", 544.9), ("vit_h", 918.6)]
)
def test_published_sizes(sam, millions):
    """The authors' count has BERT's pooler in it."""
    pooler = 768 * 768 + 768
    found = sum(p.numel() for p in without_memory(sam).parameters()) + pooler
    assert found / 1e6 == pytest.approx(millions, abs=1e-6 if sam == "vit_b" else 0.06)


def large_shapes() -> dict[str, tuple[int, ...]]:
    """The authors' names for ViT-L, from those for ViT-H: 8 blocks fewer, heads of 64, not 80."""
    narrower = {1280: 1024, 3840: 3072, 5120: 4096, 2560: 2048, 640: 512, 80: 64}
    return {
        name: tuple(narrower.get(side, side) for side in shape)
        for name, shape in official_shapes("vit_h").items()
        if not re.search(r"\.blocks\.(2[4-9]|3\d)\.", name)
    }


def test_every_tensor_of_the_large_variant_has_a_place():
    """Which blocks see the whole image shows in the lengths of their tables."""
    state = {key: torch.empty(shape, device="meta") for key, shape in large_shapes().items()}
    found = convert_state(state, CONVERTERS).state
    own = without_memory("vit_l").state_dict()
    assert set(found) == set(own)
    other = {key for key in own if own[key].shape != found[key].shape}
    moved = {
        f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for i in (5, 7, 11, 15, 17) for axis in "hw"
    }
    assert other == moved
    assert all(len(own[key]) == 127 for key in moved if key.split(".")[2] in ("5", "11", "17"))


def test_tensors_go_where_they_are_meant(make_model):
    """By content: what the file says of one part is found in that part, and nowhere else."""
    model = make_model()
    last = "vl_adapter.interactions.3."
    theirs = (
        f"{last}vl_extractor.l_norm2.weight",
        f"{last}extra_vl_extractors.1.p2l_cross_attn.q_proj.bias",
        "vl_adapter.interactions.0.extractor.query_norm.bias",
        "vl_adapter.prompt_blocks.1.p_self_attn.k_proj.bias",
        "vl_adapter.spm.fc4.bias",
    )
    renamed = convert_state(
        {name: torch.tensor(i + 1.0) for i, name in enumerate(theirs)}, CONVERTERS
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


def test_sams_own_files_fill_its_three_parts(make_model):
    """Under SAM's names, which are ours; everything else is reported as missing."""
    model = make_model(ruled=False)
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


def test_another_variant_is_refused(make_model):
    state = {k: torch.empty(v) for k, v in official_shapes("vit_b").items() if "blocks.0" in k}
    with pytest.raises(CheckpointError, match="another model.*ReferSAM"):
        load_state(make_model(), state, "refersam_b.pth")
