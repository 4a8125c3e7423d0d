"""Mask decoders: HIPIE's queries as prompts choose them, and mistakes."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg

from hipie import Segmenter, add_hipie_config
from hipie.data.picturebook import PictureBook
from hipie.errors import HipieError, InputError
from hipie_reasoning.modeling.mask_decoder import HipieMaskDecoder, build_mask_decoder


@pytest.fixture(scope="module")
def decoder() -> HipieMaskDecoder:
    segmenter = Segmenter.from_config("nano/hipie_nano_picturebook.yaml", device="cpu")
    return HipieMaskDecoder(segmenter.model, segmenter.cfg)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_hipie_config(cfg)
    return cfg


def test_a_prompt_chooses_the_queries_that_it_fits(decoder) -> None:
    """The largest product of score and mask, query by query."""
    image = torch.from_numpy(PictureBook(0, "val").page(0).image).permute(2, 0, 1)
    size = tuple(image.shape[-2:])
    features = decoder.encode(image)
    layer = features.stuff.layers[-1]
    with torch.no_grad():
        masks = decoder.hipie.stuff.mask_head.logits(
            layer,
            features.stuff.mask_features,
            torch.zeros(len(layer.class_embeddings[0]), dtype=torch.long),
            torch.arange(len(layer.class_embeddings[0])),
        )
        query = int((masks > 0).flatten(1).sum(1).argmax())
        normed = torch.nn.functional.normalize(layer.class_embeddings[0], dim=1)
        prompts = torch.stack([normed[query], -normed[query]]) * 1e3
        logits = decoder.decode(features, prompts, size)
        products = layer.class_embeddings[0] @ prompts[0] / decoder.prompt_width**0.5
        scores = (products + decoder.score_bias).sigmoid()
    best = torch.zeros_like(masks[0])
    for score, mask in zip(scores, masks):
        best = torch.maximum(best, score * mask.sigmoid())
    height, width = features.image_sizes[0]
    large = torch.nn.functional.interpolate(best[None, None], scale_factor=4, mode="bilinear")
    large = large[:, :, :height, :width]
    expected = torch.nn.functional.interpolate(large, size, mode="bilinear")[0, 0] > 0.5
    assert logits.shape == (2, *size)
    assert scores[query] > 0.99
    assert expected.any()
    # Logits are interpolated there, and probabilities here.
    assert ((logits[0] > 0) == expected).float().mean() > 0.98


def test_without_prompts_there_is_no_mask(decoder) -> None:
    features = decoder.encode(torch.zeros(3, 64, 96, dtype=torch.uint8))
    assert decoder.decode(features, torch.zeros(0, decoder.prompt_width), (10, 20)).shape[0] == 0


def test_hipie_stays_frozen_and_in_evaluation_mode(decoder) -> None:
    decoder.train()
    assert not any(each.training for each in decoder.hipie.modules())
    trained = [name for name, each in decoder.named_parameters() if each.requires_grad]
    assert trained == ["score_bias"]


def test_an_unknown_mask_decoder_is_named(cfg) -> None:
    cfg.MODEL.REASONING.MASK_DECODER = "sam3"
    with pytest.raises(InputError, match='"sam3"; it has to be one of sam, hipie'):
        build_mask_decoder(cfg)


def test_a_file_of_another_sam_is_refused(cfg, tmp_path) -> None:
    from hipie.modeling.sam.loading import load_sam

    torch.save(load_sam("random:tiny").state_dict(), tmp_path / "sam.pth")
    cfg.MODEL.REASONING.SAM, cfg.MODEL.REASONING.SAM_WEIGHTS = "vit_b", str(tmp_path / "sam.pth")
    with pytest.raises(HipieError, match="SAM vit_b"):
        build_mask_decoder(cfg)


def test_only_a_mask_decoder_that_is_not_frozen_is_trained(cfg) -> None:
    cfg.MODEL.REASONING.SAM = "random:tiny"
    for frozen in (False, True):
        cfg.MODEL.REASONING.FREEZE_MASK_DECODER = frozen
        trained = [n for n, p in build_mask_decoder(cfg).named_parameters() if p.requires_grad]
        assert all(name.startswith("sam.mask_decoder.") for name in trained)
        assert bool(trained) != frozen
