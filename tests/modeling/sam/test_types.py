"""SAM 2, MobileSAM, EdgeSAM and EfficientSAM: files told by their names, prompts and masks.

`data/published_names.tsv` has the names and shapes of all tensors of the classes in the
repositories of MobileSAM (34bbbfd), EdgeSAM (b53372c), EfficientSAM (d525f62) and SAM 2 (2b90b9f).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from segment_anything.utils.transforms import ResizeLongestSide

from hipie.checkpoint import CheckpointError
from hipie.errors import InputError
from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie.modeling.sam.automatic_masks import automatic_masks
from hipie.modeling.sam.loading import MODEL_TYPES, load_sam
from hipie.modeling.sam.predictor import Sam
from hipie.modeling.sam.refinement import refine_things
from hipie.modeling.sam.types import SAM_TYPES, sam_type_of

NAMES = Path(__file__).parent / "data/published_names.tsv"
STRETCHED = ("tiny_sam2", "tiny_efficient_sam")
POINTS, LABELS = np.array([[[30.0, 20.0], [70.0, 45.0]]]), np.array([[1, 0]])
BOX = np.array([[10.0, 5.0, 80.0, 50.0], [20.0, 10.0, 60.0, 40.0]])


def published(kind: str) -> dict[str, torch.Tensor]:
    """A made-up state dict with the published names and shapes, its values from the names."""
    state = {}
    for row in NAMES.read_text().splitlines():
        owner, name, shape = row.split("\t")
        if owner == kind:
            size = [int(side) for side in shape.split("x")] if shape else []
            generator = torch.Generator().manual_seed(sum(map(ord, name)))
            state[name] = torch.rand(size, generator=generator) * 0.1
    return state


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=STRETCHED)
def stretched(request):
    return Sam.from_source(f"random:{request.param}")


@pytest.mark.parametrize("kind", ["mobile_sam", "edge_sam", "efficient_sam_ti", "sam2_hiera_tiny"])
def test_published_names_are_read_into_every_tensor(kind, tmp_path):
    state = published(kind)
    assert len(state) > 200 and sam_type_of(state) == kind
    file = tmp_path / "a_name_that_says_nothing.pt"
    torch.save({"model": state} if kind.startswith(("eff", "sam2")) else state, file)
    sam = load_sam("", str(file))
    by_value = {value.sum().item() for value in state.values() if value.is_floating_point()}
    loaded = [value for name, value in sam.state_dict().items() if value.is_floating_point()]
    assert len(loaded) > 150
    known = sum(v.sum().item() in by_value for v in loaded)
    joined = 1 if kind.startswith("sam2") else 0  # four tables of points are one
    assert known == len(loaded) - joined
    with pytest.raises(CheckpointError, match=f"weights of {kind}, and the type is vit_b"):
        load_sam("vit_b", str(file))
    del state[next(name for name in state if name.startswith("image_encoder") and "neck" in name)]
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=f"so it is not a SAM {kind}"):
        load_sam("", str(file))


def test_sam_itself_is_told_by_its_width():
    for kind, width in (("vit_b", 768), ("vit_l", 1024), ("vit_h", 1280)):
        state = {
            "image_encoder.patch_embed.proj.weight": torch.zeros(width, 3, 16, 16),
            "image_encoder.pos_embed": torch.zeros(1, 64, 64, width),
        }
        assert sam_type_of(state) == kind
    assert sam_type_of({"a": torch.zeros(1)}) == ""
    sam2 = {f"image_encoder.trunk.blocks.{n}.norm1.weight": torch.zeros(1) for n in range(48)}
    sam2["image_encoder.trunk.patch_embed.proj.weight"] = torch.zeros(144, 3, 7, 7)
    assert sam_type_of(sam2) == "sam2_hiera_large"
    assert set(MODEL_TYPES) < set(SAM_TYPES)


def test_files_of_other_models_are_named(tmp_path):
    file = str(tmp_path / "mobile_sam.pt")
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="are of no known SAM"):
        load_sam("", file)
    torch.save({"vision_encoder.patch_embed.projection.weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="layout of transformers, which is not read"):
        load_sam("", file)
    with pytest.raises(OpenVocabularyError, match='no SAM model "mobile-sam"; .*mobile_sam'):
        load_sam("mobile-sam", file)
    with pytest.raises(OpenVocabularyError, match="sam2_hiera_tiny needs the file of weights"):
        load_sam("sam2_hiera_tiny")


def test_transformers_files_of_sam2_are_read(tmp_path):
    from hipie.checkpoint.converters.conversion import rename_by_table
    from hipie.modeling.sam.sam2 import TRANSFORMERS_SAM2_RULES, join_shared

    network = load_sam("random:tiny_sam2")
    state = {**network.network.state_dict(), "memory_attention.layer_norm.weight": torch.zeros(3)}
    renamed, dropped = rename_by_table(TRANSFORMERS_SAM2_RULES)(state)
    joined = join_shared(state, renamed)
    assert joined.keys() == network.state_dict().keys()
    assert "memory_attention.layer_norm.weight" in dropped
    network.load_state_dict(joined)


@torch.no_grad()
def test_sam2_has_the_masks_of_transformers(image):
    from transformers import Sam2Processor

    sam = Sam.from_source("random:tiny_sam2")
    processor = Sam2Processor(sam.model.processor, target_size=128)
    encoded = sam.encode(image)
    for multimask in (True, False):
        for points, box in ((POINTS, None), (None, BOX[:1]), (POINTS, BOX[:1])):
            inputs = processor(
                images=image,
                input_points=None if points is None else [points.tolist()],
                input_labels=None if points is None else [LABELS.tolist()],
                input_boxes=None if box is None else [box.tolist()],
                return_tensors="pt",
            )
            sizes = inputs.pop("original_sizes")
            expected = sam.model.network(**inputs, multimask_output=multimask)
            (masks,) = processor.post_process_masks(expected.pred_masks, sizes)
            found = encoded.predict(
                points, None if points is None else LABELS, box, multimask=multimask
            )
            torch.testing.assert_close(found.scores, expected.iou_scores[0], atol=1e-5, rtol=0)
            low = expected.pred_masks[0]
            torch.testing.assert_close(found.low_resolution, low, atol=1e-4, rtol=0)
            assert (found.masks != masks.bool()).float().mean() < 1e-3
            assert found.masks.shape == (1, 3 if multimask else 1, *image.shape[:2])


def test_prompts_of_a_batch_equal_single_ones(stretched, image):
    encoded = stretched.encode(image)
    together = encoded.predict(boxes=BOX)
    for row in range(len(BOX)):
        alone = encoded.predict(boxes=BOX[row : row + 1])
        assert torch.equal(together.masks[row], alone.masks[0])
        torch.testing.assert_close(together.scores[row], alone.scores[0], atol=1e-6, rtol=0)
    first, second = stretched.encode_batch([image, image[:, ::-1].copy()])
    assert torch.equal(first.predict(boxes=BOX).masks, together.masks)
    assert not torch.equal(second.features, first.features)
    assert not len(encoded.predict(boxes=np.zeros((0, 4))))


def test_coordinates_are_stretched_to_the_square(stretched):
    transform = stretched.predictor().transform
    box = transform.apply_boxes_torch(torch.tensor([[9.0, 6.0, 90.0, 60.0]]), (60, 90))
    assert box[0].tolist() == pytest.approx([12.8, 12.8, 128, 128])
    points = np.array([[9.0, 6.0]])
    assert transform.apply_coords(points, (60, 90))[0].tolist() == pytest.approx([12.8, 12.8])
    padded = ResizeLongestSide(128).apply_coords(points, (60, 90))
    assert not np.allclose(transform.apply_coords(points, (60, 90)), padded)


def test_stretched_sams_refine_and_generate_masks(stretched, image):
    masks = torch.zeros(2, 60, 90, dtype=torch.bool)
    masks[0, 10:30, 20:50] = True
    refined = refine_things(stretched.encode(image), masks)
    assert refined.shape == masks.shape and not refined[1].any()
    options = {"points_per_side": 2, "pred_iou_thresh": -10.0, "stability_score_thresh": -1.0}
    found, scores = automatic_masks(stretched, image, **options)
    assert len(found) and found.shape[1:] == (60, 90) and (scores.diff() <= 0).all()
    cropped, _ = automatic_masks(stretched, image, crop_n_layers=1, **options)
    assert cropped.shape[1:] == (60, 90)


def test_mask_prompts(image):
    sam2, efficient = (Sam.from_source(f"random:{kind}") for kind in STRETCHED)
    mask = torch.zeros(1, 60, 90, dtype=torch.bool)
    mask[0, 10:30, 20:50] = True
    encoded = sam2.encode(image)
    prompts = encoded.mask_prompts(mask)
    assert prompts.shape == (1, 1, 32, 32)
    inside = F.interpolate(mask[:, None].float(), (32, 32), mode="area") >= 0.5
    assert ((prompts > 0) == inside).float().mean() > 0.95
    one = encoded.predict(boxes=BOX[:1], masks=prompts)
    assert not torch.equal(one.low_resolution, encoded.predict(boxes=BOX[:1]).low_resolution)
    encoded = efficient.encode(image)
    with pytest.raises(OpenVocabularyError, match="points and boxes as prompts, not masks"):
        encoded.predict(boxes=BOX[:1], masks=encoded.mask_prompts(mask))
    points = np.random.default_rng(0).uniform(1, 50, (1, 5, 2))
    with pytest.raises(OpenVocabularyError, match="takes 6 points, .* and these are 7"):
        encoded.predict(points, np.ones((1, 5)), BOX[:1])


def test_methods_that_change_the_decoder_need_that_of_sam(stretched):
    with pytest.raises(InputError, match="PerSAM needs the mask decoder of SAM"):
        stretched.require_padded("PerSAM")
    Sam.from_source("random:tiny").require_padded("PerSAM")


@pytest.mark.parametrize("kind", ["mobile_sam", "edge_sam"])
@torch.no_grad()
def test_small_encoders_have_features_of_stride_16(kind):
    from hipie.modeling.sam.small_encoders import RepViTEncoder, TinyViTEncoder

    encoder = (TinyViTEncoder if kind == "mobile_sam" else RepViTEncoder)(img_size=128).eval()
    assert encoder(torch.rand(1, 3, 128, 128)).shape == (1, 256, 8, 8)
