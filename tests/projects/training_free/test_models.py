"""The architectures as people use them: segmenter, command line, Detectron2's evaluators."""

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
GROUPS = ("class_attention", "kmeans", "tokencut")
THINGS, STUFF = ["dog", ("car", "automobile")], ["grass", "sky"]


def needs(method: str) -> None:
    if method == "diffusion":
        pytest.importorskip("diffusers", reason="the optional package diffusers is not installed")


@pytest.fixture(scope="session")
def page(tmp_path_factory) -> Image.Image:
    """A page of the picture book."""
    from hipie.data.picturebook import PictureBook

    return Image.fromarray(PictureBook(0, "val").page(1).image)


@pytest.fixture(scope="session")
def build(configs):
    made: dict[str, Segmenter] = {}

    def one(method: str) -> Segmenter:
        if method not in made:
            made[method] = Segmenter.from_config(configs / f"{method}_random.yaml", device="cpu")
        return made[method]

    return one


@pytest.mark.parametrize("method", [*DENSE, *GROUPS, "diffusion"])
def test_the_segmenter_answers_and_draws_a_page(build, page, tmp_path, method):
    needs(method)
    found = build(method).segment(page, THINGS, STUFF)
    assert isinstance(found, Segmentation) and len(found) >= 1
    assert set(found.labels) <= {"dog", "car", "grass", "sky"}
    assert found.masks.shape == (len(found), page.height, page.width)
    assert found.masks.sum(0).max() == 1, "segments do not overlap"
    if method != "diffusion":
        assert found.masks.any(0).all(), "without a background every pixel is of some segment"
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    drawn = Image.open(found.save(tmp_path / "page.png", title=method))
    assert drawn.width > page.width
    plain = np.asarray(page.convert("RGB"), float)
    assert not np.allclose(np.asarray(drawn.convert("RGB").resize(page.size), float), plain, atol=1)
    assert json.loads(found.save(tmp_path / "page.json").read_text())[0]["label"] in found.labels


def test_the_segmenter_answers_expressions(build, page, tmp_path):
    segmenter = build("global_local")
    expressions = ["the red car on the left", "a dog"]
    found = segmenter.refer(page, expressions)
    assert found.labels == expressions and found.masks.any((1, 2)).all()
    assert Image.open(found.save(tmp_path / "page.png")).width > page.width
    with pytest.raises(ValueError, match=r"GlobalLocalCLIP cannot segment\(\)"):
        segmenter.segment(page, ["dog"])


@pytest.mark.parametrize("method", [*DENSE, *GROUPS])
def test_bfloat16_gives_finite_scores(build, method):
    item = {
        "image": torch.randint(0, 255, (3, 60, 90)),
        "vocabulary": Vocabulary.from_names(THINGS, STUFF),
    }
    with torch.autocast("cpu", torch.bfloat16):
        found = build(method).model([item])[0]["sem_seg"]
    assert found.dtype == torch.float32 and torch.isfinite(found).all()
    assert float(found.min()) >= 0 and float(found.max()) <= 1.001


def test_blue_first_images_are_turned_around(build):
    model = build("maskclip").model
    image = torch.randint(0, 255, (3, 64, 64))
    words = Vocabulary.from_names(THINGS)
    expected = model([{"image": image, "vocabulary": words}])[0]["sem_seg"]
    model.config = InferenceConfig(image_format="BGR")
    turned = model([{"image": image.flip(0), "vocabulary": words}])[0]["sem_seg"]
    model.config = InferenceConfig(image_format="RGB")
    assert torch.equal(turned, expected)


@pytest.mark.parametrize("method", ["maskclip", "tokencut", "global_local"])
def test_command_line_evaluates_on_the_picture_book(configs, tiny_book, tmp_path, method):
    from hipie.cli import train

    options = [
        *("PICTUREBOOK.ROOT", str(tiny_book / "training_free"), "PICTUREBOOK.VAL_PAGES", "2"),
        *("OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"),
    ]
    file = str(configs / f"{method}_random.yaml")
    train.run_process(train.parse_arguments(["--config-file", file, "--eval-only", *options]))
    results = json.loads((tmp_path / "results.json").read_text())
    task, metric = ("refer", "oIoU") if method == "global_local" else ("sem_seg", "mIoU")
    assert 0 <= results[task][metric] <= 100


def test_every_configuration_builds_its_architecture(configs):
    """Weights are fetched by name only when a model is built, so here only the keys are read."""
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
