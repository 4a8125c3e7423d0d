"""The architecture: names of regions, outputs, and unusable input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

pytest.importorskip("skimage", reason="scikit-image is not installed")

from hipie import model_zoo
from hipie.errors import InputError
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_classical import ClassicalRegions
from hipie_classical.__main__ import annotated_masks, main
from hipie_classical.build import METHODS
from hipie_classical.meta_arch import join_touching_regions
from hipie_classical.modeling.naming import PrototypeNaming
from hipie_classical.modeling.prototypes import Prototypes
from hipie_classical.modeling.region_features import (
    RegionFeatures,
    color_statistics,
    mean_over_regions,
)
from hipie_classical.modeling.superpixels import MergedSuperpixels, Slic

CONFIGS = Path(__file__).parents[3] / "projects/Classical/configs"
CPU = ["MODEL.DEVICE", "cpu"]
COLORS = {"sky": (120, 180, 240), "grass": (40, 110, 50), "ball": (220, 50, 40)}
VOCABULARY = Vocabulary.from_names(things=[("ball", "sphere")], stuff=["grass", "sky"])


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of two balls before sky and grass, and its map of names."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :96]
    target = (rows >= 36).astype(np.int32)
    for x in (22, 70):
        target[(rows - 30 - rng.integers(6)) ** 2 + (columns - x) ** 2 < 12**2] = 2
    image = np.array(list(COLORS.values()))[target] + rng.integers(-5, 6, (64, 96, 3))
    return image.clip(0, 255).astype(np.uint8), target


@pytest.fixture(scope="module")
def prototypes() -> Prototypes:
    """Of exact regions, and of coarse ones, which are mixed as those of the methods are."""
    extractor = RegionFeatures(("color",))
    image, target = scene(1)
    features = torch.cat([extractor(image, target), extractor(image, in_blocks(target))])
    return Prototypes.fit(features, [0, 1, 2, 0, 1, 2], list(COLORS), ("color",))


def in_blocks(target: np.ndarray) -> np.ndarray:
    """A label map [64, 96] in blocks of 8 pixels."""
    return target.reshape(8, 8, 12, 8)[:, 4, :, 4].repeat(8, 0).repeat(8, 1)


def named(output: dict) -> np.ndarray:
    """Names of the classes with the highest scores [H, W]."""
    return np.array(VOCABULARY.names)[output["sem_seg"].argmax(0).numpy()]


def build(prototypes: Prototypes, **options) -> ClassicalRegions:
    regions = MergedSuperpixels(Slic(80), 10.0)
    return ClassicalRegions(regions=regions, naming=PrototypeNaming(prototypes), **options).eval()


def item(image: np.ndarray, **more) -> dict:
    return {"image": torch.from_numpy(image).permute(2, 0, 1), "vocabulary": VOCABULARY, **more}


def test_regions_are_named_and_things_are_instances(prototypes) -> None:
    image, target = scene(2)
    (output,) = build(prototypes)([item(image)])
    assert (named(output) == np.array(list(COLORS))[target]).mean() > 0.97
    panoptic, infos = output["panoptic_seg"]
    assert sorted((info["category_id"], info["isthing"]) for info in infos) == [
        (0, True),
        (0, True),
        (1, False),
        (2, False),
    ]
    instances = output["instances"]
    assert instances.pred_classes.tolist() == [0, 0] and len(instances.pred_boxes) == 2
    assert torch.equal(instances.pred_masks.any(0), output["sem_seg"].argmax(0) == 0)
    assert torch.allclose(output["sem_seg"].sum(0), torch.ones(64, 96), atol=1e-5)
    assert set(panoptic.unique().tolist()) == {1, 2, 3, 4}


def test_outputs_have_the_requested_size_and_channels_their_order(prototypes) -> None:
    image, _ = scene(3)
    (plain,) = build(prototypes)([item(image)])
    (scaled,) = build(prototypes)([item(image, height=128, width=192)])
    assert scaled["sem_seg"].shape == (3, 128, 192)
    assert torch.equal(scaled["sem_seg"].argmax(0)[::2, ::2], plain["sem_seg"].argmax(0))
    blue_first = build(prototypes, image_format="BGR")
    (swapped,) = blue_first([item(np.ascontiguousarray(image[:, :, ::-1]))])
    assert torch.equal(swapped["sem_seg"], plain["sem_seg"])


def test_touching_regions_of_a_class_are_joined() -> None:
    labels = np.array([[0, 1, 2], [0, 1, 3]], np.int32)
    scores = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    joined, means = join_touching_regions(labels, scores)
    assert joined.tolist() == [[0, 0, 1], [0, 0, 0]]
    torch.testing.assert_close(means[0], torch.tensor([0.9 * 2 + 0.6 * 2 + 0.7, 1.3]) / 5)
    torch.testing.assert_close(means[1], scores[2])


def test_without_joining_every_region_of_a_thing_is_a_segment(prototypes) -> None:
    image, _ = scene(2)
    counts = []
    for join in (True, False):
        model = build(prototypes, join_touching=join)
        model.regions = Slic(80)
        (output,) = model([item(image)])
        counts.append(len(output["instances"]))
    assert counts[0] == 2 < counts[1]


def test_refinement_moves_borders(prototypes) -> None:
    image, target = scene(4)
    coarse = in_blocks(target)
    accuracies = []
    for refinement in ("", "pamr"):
        model = build(prototypes, refinement=refinement)
        model.regions = lambda _: coarse
        (output,) = model([item(image)])
        accuracies.append((named(output) == np.array(list(COLORS))[target]).mean())
    assert accuracies[0] < 0.95 < 0.98 < accuracies[1], accuracies


def test_features_are_means_over_pixels() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, (10, 13)).astype(np.int32)
    features = torch.from_numpy(rng.random((4, 3, 4))).float()
    upsampled = features.numpy().repeat(4, 1).repeat(4, 2)[:, :10, :13]
    expected = np.stack([upsampled[:, labels == region].mean(1) for region in range(3)])
    np.testing.assert_allclose(mean_over_regions(features, labels, 4), expected, rtol=1e-5)
    image = rng.integers(0, 256, (10, 13, 3)).astype(np.uint8)
    from skimage.color import rgb2lab

    lab = rgb2lab(image)
    for region, row in enumerate(color_statistics(image, labels).numpy()):
        colors = lab[labels == region]
        np.testing.assert_allclose(row, [*colors.mean(0), *colors.std(0)], atol=0.3)


def test_network_features_have_176_numbers() -> None:
    image, target = scene(1)
    features = RegionFeatures(("color", "network"))(image, target)
    assert features.shape == (3, 6 + 176)
    assert torch.equal(features[:, :6], color_statistics(image, target))


def test_prototypes_are_written_and_read(prototypes, tmp_path) -> None:
    file = prototypes.write(tmp_path / "p.json")
    read = Prototypes.read(str(file))
    assert read.names == prototypes.names and read.features == ("color",)
    torch.testing.assert_close(read.means, prototypes.means, atol=1e-4, rtol=0)
    packaged = Prototypes.read("package:picturebook")
    assert len(packaged.names) == len(packaged.means) > 20 and "sky" in packaged.names


def test_synonyms_have_prototypes(prototypes) -> None:
    vocabulary = Vocabulary.from_names(things=[("globe", "ball"), ("sky", "grass")])
    assert prototypes.rows_of(vocabulary) == [[2], [0, 1]]
    features = prototypes.means * prototypes.scale + prototypes.center
    probabilities = prototypes.probabilities(features, vocabulary, 0.1)
    assert probabilities.argmax(1).tolist() == [1, 1, 0]
    partly = Vocabulary.from_names(things=["ball", "unicorn"])
    scores = prototypes.probabilities(features, partly, 0.1)
    assert (scores[:, 1] == 0).all() and (scores[:, 0] == 1).all()


@pytest.mark.parametrize("name", [path.name for path in sorted(CONFIGS.glob("*_picturebook.yaml"))])
def test_configurations_build(name) -> None:
    cfg = model_zoo.get_config(str(CONFIGS / name), CPU)
    model = build_model(cfg)
    assert type(model.regions) is type(METHODS[cfg.MODEL.CLASSICAL.METHOD](cfg.MODEL.CLASSICAL))


def test_clip_names_regions() -> None:
    cfg = model_zoo.get_config(str(CONFIGS / "slic_clip_random.yaml"), CPU)
    model = build_model(cfg).eval()
    image, _ = scene(2)
    (output,) = model([item(image)])
    assert output["sem_seg"].shape == (3, 64, 96)
    labels = model.divide(image)
    probabilities = model.naming(image, labels, VOCABULARY)
    assert probabilities.shape == (labels.max() + 1, 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(probabilities)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("METHOD", "watershedd"), 'no classical method "watershedd"; similar names are watershed'),
        (("NAMING", "clipp"), 'no way of naming regions "clipp"'),
        (("PROTOTYPES.FILE", "none.json"), "there is no file none.json; python -m hipie_classical"),
        (("PROTOTYPES.TEMPERATURE", 0.0), "PROTOTYPES.TEMPERATURE is 0.0"),
        (("MIN_AREA", 1.5), "MIN_AREA is 1.5"),
        (("REFINEMENT", "sam"), 'REFINEMENT is "sam"'),
        (("REFINEMENT", "blur"), 'no refinement "blur"'),
    ],
)
def test_invalid_configurations_are_named(options, message) -> None:
    key, value = options
    cfg = model_zoo.get_config(
        str(CONFIGS / "slic_picturebook.yaml"), [f"MODEL.CLASSICAL.{key}", value, *CPU]
    )
    with pytest.raises(InputError, match=message):
        build_model(cfg)


def test_unusable_inputs_are_named(prototypes, tmp_path) -> None:
    image, _ = scene(2)
    model = build(prototypes)
    with pytest.raises(InputError, match=r"no prototype of unicorn; there are those of sky, gr"):
        model([item(image) | {"vocabulary": Vocabulary.from_names(things=["unicorn"])}])
    with pytest.raises(InputError, match=r"a.png: images have to be \[3, H, W\], .*\[3, 0, 96\]"):
        model([item(image[:0], file_name="a.png")])
    file = tmp_path / "other.json"
    file.write_text(json.dumps({"format": "else"}))
    with pytest.raises(InputError, match="other.json: this is not a file of prototypes"):
        Prototypes.read(str(file))
    with pytest.raises(InputError, match="FEATURES is .'colour',.; it has to be some of color, ne"):
        RegionFeatures(("colour",))
    with pytest.raises(InputError, match="no annotated regions"):
        Prototypes.fit(torch.zeros(0, 3), [], [], ("color",))
    with pytest.raises(InputError, match=r"b.png: prototypes need a panoptic map"):
        annotated_masks({"file_name": "b.png"})


def test_the_command_writes_prototypes_of_a_data_set(tiny_book, tmp_path, capsys) -> None:
    output = tmp_path / "p.json"
    options = ["PICTUREBOOK.ROOT", str(tiny_book), "MODEL.CLASSICAL.PROTOTYPES.FEATURES"]
    arguments = ["picturebook_train_panoptic", "--count", "3", "--output", str(output)]
    tiny = str(Path(__file__).parents[2] / "tiny.yaml")
    assert main([*arguments, "--config-file", tiny, "--opts", *options, "('color',)"]) == 0
    prototypes = Prototypes.read(str(output))
    assert prototypes.features == ("color",) and prototypes.means.shape[1] == 6
    assert f"prototypes of {len(prototypes.names)} classes" in capsys.readouterr().out
