"""Architectures with the segmenter, the command line and Detectron2's evaluators."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hipie import Segmenter, model_zoo
from hipie.segmentation import Segmentation
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free.meta_arch import InferenceConfig

DENSE = ("maskclip", "sclip", "gem", "clip_dinoiser")
GROUPS = ("class_attention", "kmeans", "tokencut", "maskcut")
THINGS, STUFF = ["dog", ("car", "automobile")], ["grass", "sky"]


def skip_if_missing(method: str) -> None:
    if method in ("diffusion", "peekaboo"):
        pytest.importorskip("diffusers", reason="the optional package diffusers is not installed")


@pytest.fixture(scope="session")
def page(tmp_path_factory) -> Image.Image:
    """Page of the picture book."""
    from hipie.data.picturebook import PictureBook

    return Image.fromarray(PictureBook(0, "val").page(1).image)


@pytest.fixture(scope="session")
def build(configs):
    segmenters: dict[str, Segmenter] = {}

    def build_once(method: str) -> Segmenter:
        if method not in segmenters:
            segmenters[method] = Segmenter.from_config(
                configs / f"{method}_random.yaml", device="cpu"
            )
        return segmenters[method]

    return build_once


@pytest.mark.parametrize("method", [*DENSE, *GROUPS, "diffusion"])
def test_segmenter_segments_and_saves_an_image(build, page, tmp_path, method):
    skip_if_missing(method)
    segmentation = build(method).segment(page, THINGS, STUFF)
    assert isinstance(segmentation, Segmentation) and len(segmentation) >= 1
    assert set(segmentation.labels) <= {"dog", "car", "grass", "sky"}
    assert segmentation.masks.shape == (len(segmentation), page.height, page.width)
    assert segmentation.masks.sum(0).max() == 1, "segments do not overlap"
    if method != "diffusion":
        assert segmentation.masks.any(0).all(), (
            "without a background every pixel is of some segment"
        )
    assert ((segmentation.scores >= 0) & (segmentation.scores <= 1)).all()
    drawing = Image.open(segmentation.save(tmp_path / "page.png", title=method))
    assert drawing.width > page.width
    original = np.asarray(page.convert("RGB"), float)
    assert not np.allclose(
        np.asarray(drawing.convert("RGB").resize(page.size), float), original, atol=1
    )
    assert (
        json.loads(segmentation.save(tmp_path / "page.json").read_text())["segments"][0]["category"]
        in segmentation.labels
    )


def test_segmenter_segments_expressions(build, page, tmp_path):
    segmenter = build("global_local")
    expressions = ["the red car on the left", "a dog"]
    segmentation = segmenter.refer(page, expressions)
    assert segmentation.labels == expressions and segmentation.masks.any((1, 2)).all()
    assert Image.open(segmentation.save(tmp_path / "page.png")).width > page.width
    with pytest.raises(ValueError, match=r"GlobalLocalCLIP cannot segment\(\)"):
        segmenter.segment(page, ["dog"])


def test_segmenter_optimizes_masks_for_expressions(build, page):
    skip_if_missing("peekaboo")
    segmentation = build("peekaboo").refer(page, ["the red car on the left", "a dog"])
    assert segmentation.labels == ["the red car on the left", "a dog"]
    assert segmentation.masks.any((1, 2)).all()


@pytest.mark.parametrize("method", [*DENSE, *GROUPS])
def test_bfloat16_scores_are_finite(build, method):
    item = {
        "image": torch.randint(0, 255, (3, 60, 90)),
        "vocabulary": Vocabulary.from_names(THINGS, STUFF),
    }
    with torch.autocast("cpu", torch.bfloat16):
        segmentation = build(method).model([item])[0]["sem_seg"]
    assert segmentation.dtype == torch.float32 and torch.isfinite(segmentation).all()
    assert float(segmentation.min()) >= 0 and float(segmentation.max()) <= 1.001


def test_bgr_images_are_converted(build):
    model = build("maskclip").model
    image = torch.randint(0, 255, (3, 64, 64))
    vocabulary = Vocabulary.from_names(THINGS)
    expected = model([{"image": image, "vocabulary": vocabulary}])[0]["sem_seg"]
    model.config = InferenceConfig(image_format="BGR")
    from_bgr = model([{"image": image.flip(0), "vocabulary": vocabulary}])[0]["sem_seg"]
    model.config = InferenceConfig(image_format="RGB")
    assert torch.equal(from_bgr, expected)


@pytest.mark.parametrize("method", ["maskclip", "tokencut", "global_local", "peekaboo"])
def test_command_line_evaluates_on_the_picture_book(configs, tiny_book, tmp_path, method):
    from hipie.cli import train

    skip_if_missing(method)
    options = [
        *("PICTUREBOOK.ROOT", str(tiny_book / "training_free"), "PICTUREBOOK.VAL_PAGES", "2"),
        *("OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"),
    ]
    file = str(configs / f"{method}_random.yaml")
    train.run(train.parse_arguments(["--config-file", file, "--eval-only", *options]))
    results = json.loads((tmp_path / "results.json").read_text())
    (tasks,) = results.values()
    referring = method in ("global_local", "peekaboo")
    task, metric = ("refer", "oIoU") if referring else ("sem_seg", "mIoU")
    assert 0 <= tasks[task][metric] <= 100


def test_configurations_name_registered_architectures(configs):
    """Only keys are checked, since building a model downloads its weights."""
    from detectron2.modeling import META_ARCH_REGISTRY

    from hipie.modeling.open_vocabulary.clip_loading import require_clip
    from hipie_training_free.meta_arch import TrainingFree
    from hipie_training_free.modeling.dino import check_model_name

    files = [file for file in configs.glob("*.yaml") if not file.name.startswith("Base-")]
    assert len(files) > 20
    for file in files:
        cfg = model_zoo.get_config(str(file))
        assert issubclass(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), TrainingFree)
        keys = cfg.MODEL.TRAINING_FREE
        require_clip(keys.CLIP.MODEL, keys.CLIP.WEIGHTS)
        if not keys.DINO.MODEL.startswith("random:"):
            check_model_name(keys.DINO.MODEL)
