"""Masks that are made from image tags: reading of tags, matching of names, maps, the command."""

from __future__ import annotations

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from hipie.cli.data import main
from hipie.data.image_tags import read_tags
from hipie.data.tag_masks import TagMaskOptions, label_map, tag_objects
from hipie.errors import InputError, UsageError
from hipie.modeling.class_activation import ClassActivation
from hipie.modeling.tag_matching import (
    ImageNetClasses,
    embed,
    head_noun,
    match_tags,
    named_classes,
)
from hipie.modeling.text_encoder.base import TextEncoder
from hipie.structures import TextFeatures

HEIGHT, WIDTH = 48, 64


class ColorNet(nn.Module):
    """Classifier whose features are the colours of 8 x 8 pixels; class k favours channel k."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 48, 48), "mean": (0.0,) * 3, "std": (1.0,) * 3}
        self.fc = nn.Linear(3, num_classes)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(num_classes, 3))

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward_features(self, pixels):
        return nn.functional.avg_pool2d(pixels, 8)

    def forward(self, pixels):
        return self.fc(self.forward_features(pixels).mean((2, 3)))


class WordVectors(TextEncoder):
    """Text encoder with one dimension a letter pair, so that similar spellings are similar."""

    width, tokenizer = 128, None

    def forward(self, captions):
        hidden = torch.zeros(len(captions), 1, 128)
        for row, caption in enumerate(captions):
            text = caption.text.lower()
            for pair in zip(text, text[1:], strict=False):
                hidden[row, 0, (ord(pair[0]) * 31 + ord(pair[1])) % 128] += 1
        ones = torch.ones(len(captions), 1, dtype=torch.bool)
        return TextFeatures(hidden, ones, ones.long(), ((),) * len(captions))


@pytest.fixture(scope="module")
def classes() -> ImageNetClasses:
    return ImageNetClasses(1000, "net")


def two_colours() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image with a red and a green rectangle on black, and their masks."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red, green = np.zeros((2, HEIGHT, WIDTH), bool)
    red[8:40, 8:24], green[16:32, 40:56] = True, True
    image[red], image[green] = (250, 0, 0), (0, 250, 0)
    return image, red, green


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def write_images(folder, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(two_colours()[0]).save(folder / name)


# Maps


def test_maps_of_one_scale_are_the_weighted_features():
    """The mean of a map of one class before its normalization is the score without the bias."""
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=7)
    activation = ClassActivation(net, "resnet10t")
    side = activation.input_size = 64
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    (features,) = activation.encode(image, [1.0])
    with torch.no_grad():
        scores = net(activation_input(activation, image))[0] - net.fc.bias
        maps = torch.einsum("kc,chw->khw", net.fc.weight, features[0])
    torch.testing.assert_close(maps.mean((1, 2)), scores, atol=1e-4, rtol=1e-3)
    expected = maps - maps.mean(0)
    mirrored = torch.einsum("kc,chw->khw", net.fc.weight.detach(), features[1]).flip(-1)
    expected = (expected + mirrored - mirrored.mean(0)).clamp(min=0)[2:3]
    actual = activation.maps([features], [[2]], features.shape[-2:])
    torch.testing.assert_close(actual, expected / expected.max(), atol=1e-4, rtol=1e-3)


def activation_input(activation: ClassActivation, image: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    return (pixels - activation.mean) / activation.std


def test_maps_show_where_a_class_is():
    image, red, green = two_colours()
    maps = ClassActivation(ColorNet(), "net")(image, [[0], [1]], [1.0, 2.0])
    assert maps.shape == (2, HEIGHT, WIDTH) and maps.amax((1, 2)).tolist() == [1, 1]
    assert iou(maps[0].numpy() > 0.5, red) > 0.7 and iou(maps[1].numpy() > 0.5, green) > 0.7


def test_a_concept_follows_its_probable_class():
    """Green dominates here; of the concept of red and green, the map is then that of green."""
    image, _, _ = two_colours()
    image[:, :, 0] = 0
    maps = ClassActivation(ColorNet(), "net")(image, [[0, 1], [1]], [1.0])
    assert iou(maps[0].numpy() > 0.5, maps[1].numpy() > 0.5) > 0.9


def test_networks_of_other_heads_are_refused():
    for name in ("mobilenetv3_small_050", "vit_tiny_patch16_224"):
        net = timm.create_model(name)
        with pytest.raises(InputError, match=f"{name} are not a linear function of the mean"):
            ClassActivation(net, name)
    with pytest.raises(InputError, match="has no model 'resnet9000'"):
        ClassActivation.from_timm("resnet9000")
    with pytest.raises(InputError, match="no package has weights of resnet18"):
        ClassActivation.from_timm("resnet18")


# Names


@pytest.mark.parametrize(
    ("definition", "noun"),
    [
        ("an old breed of tiny short-haired dog with protruding eyes from Mexico", "dog"),
        ("a cat having a striped coat", "cat"),
        ("uncastrated adult male sheep", "sheep"),
        ("heavy cart; drawn by a horse; used for farm work", "cart"),
        (
            "any of several breeds of dog used for hunting typically having drooping ears",
            "dog",
        ),
    ],
)
def test_nouns_of_definitions(definition, noun):
    assert head_noun(definition) == noun


def test_tags_are_matched_by_name_and_definition(classes):
    names = [["tabby cat"], ["cats"], ["dog"], ["sheep"]]
    tabby, cats, dogs, sheep = match_tags(names, classes, WordVectors())
    assert [one.name for one in tabby] == ["tabby"]
    assert {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"} <= {
        one.name for one in cats
    }
    assert len(dogs) > 35 and {"whippet", "Chihuahua"} <= {one.name for one in dogs}
    assert {"ram", "bighorn"} <= {one.name for one in sheep}


def test_other_tags_are_matched_by_the_text_encoder(classes):
    """The oracle is the cosine with the description that is most similar."""
    encoder = WordVectors()
    ((best, *others),) = match_tags([["studio sofa bed"]], classes, encoder, 0.3)
    cosines = embed(["studio sofa bed", *classes.senses("studio sofa bed")], encoder)
    cosines = (cosines @ embed(classes.descriptions, encoder).T).amax(0)
    assert best.index == int(cosines.argmax()) and best.similarity < 1
    assert len(others) == 4 and all(one.similarity <= best.similarity for one in others)
    with pytest.raises(InputError, match=r'to the tag "qqxx" \(nearest: .+ 0\.\d\d, .*--classes'):
        match_tags([["dog"], ["qqxx"]], classes, encoder, 0.9)


def test_classes_can_be_named(classes):
    (ox,) = named_classes("cow", ["ox"], classes)
    assert classes.names[ox.index] == ["ox"] and ox.similarity == 1
    with pytest.raises(InputError, match='"quark", for the tag "cow", is the name of no class'):
        named_classes("cow", ["ox", "quark"], classes)


def test_unknown_sets_of_classes_are_refused():
    with pytest.raises(InputError, match="net has 17 classes, and only the names of ImageNet's"):
        ImageNetClasses(17, "net")


# Tags


def test_tags_of_three_formats_are_equal(tmp_path):
    write_images(tmp_path, "cat/a.png", "cat/b.png", "big_dog/c.png")
    (tmp_path / "big_dog/notes.txt").write_text("no image")
    (tmp_path / "t.csv").write_text(
        "\ufefffile,tags\ncat/a.png,cat\n\nbig_dog/c.png,Big dog\ncat/b.png,cat, \n", "utf-8"
    )
    entry = {"height": HEIGHT, "width": WIDTH}
    content = {
        "images": [
            {"id": 1, "file_name": "cat/a.png", **entry},
            {"id": 2, "file_name": "cat/b.png", **entry, "tags": ["cat"]},
            {"id": 7, "file_name": "big_dog/c.png", **entry},
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "big dog"}],
        "annotations": [{"image_id": 1, "category_id": 9}, {"image_id": 7, "category_id": 4}],
    }
    (tmp_path / "t.json").write_text(json.dumps(content))
    expected = {"cat/a.png": ["cat"], "cat/b.png": ["cat"], "big_dog/c.png": ["big dog"]}
    for source, root in (("", ""), ("t.csv", ""), ("t.json", str(tmp_path))):
        tagged = read_tags(str(tmp_path / source), root)
        names = {
            image.name: [tagged.classes[tag].lower() for tag in image.tags]
            for image in tagged.images
        }
        assert names == expected, source


def test_an_image_may_have_several_tags(tmp_path):
    write_images(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text("a.png,cat,dog\na.png,CAT,sheep\n")
    tagged = read_tags(str(tmp_path / "t.csv"))
    assert tagged.classes == ("cat", "dog", "sheep")
    assert [image.tags for image in tagged.images] == [(0, 1, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b.png,cat\n", r't\.csv: the image "b\.png" of image in line 1 is not in'),
        (",cat\n", "line 1 has tags, and no image"),
        ("a.png\n", "no image has a tag"),
        ("../a.png,cat\n", "leaves the folder"),
        ('a.png,"cat\n', "the tags cannot be read"),
    ],
)
def test_wrong_lines_are_named(tmp_path, text, message):
    write_images(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_tags(str(tmp_path / "t.csv"))


def test_wrong_sources_are_named(tmp_path):
    with pytest.raises(InputError, match="has no folder with images"):
        read_tags(str(tmp_path))
    with pytest.raises(UsageError, match="neither a COCO JSON, nor a CSV file, nor a folder"):
        read_tags(str(tmp_path / "a.txt"))
    with pytest.raises(UsageError, match="a COCO JSON needs --images"):
        read_tags(str(tmp_path / "a.json"))
    write_images(tmp_path, "cat/a.png")
    (tmp_path / "cat/a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png"):
        read_tags(str(tmp_path))


# Masks


@pytest.mark.parametrize("refinement", ["none", "pamr", "crf"])
def test_objects_are_connected_components_of_labels(refinement):
    if refinement == "crf":
        pytest.importorskip("pydensecrf", reason="needs pydensecrf2")
    image, red, green = two_colours()
    maps = torch.from_numpy(np.stack([red, green])).float() * 0.8 + 0.1
    second = maps[1].roll(-40, 1)  # What is green to the left as well is of the same tag.
    maps[1] = torch.maximum(maps[1], torch.where(maps[0] > 0.5, 0, second))
    options = TagMaskOptions(0.3, refinement, min_area=0.0)
    objects = tag_objects(image, maps, [4, 7], options)
    assert {entry["category_id"] for entry in objects} <= {4, 7}
    masks = [mask_util.decode(entry["segmentation"]).astype(bool) for entry in objects]
    assert max(iou(mask, red) for mask in masks) > 0.9
    assert not (np.sum(masks, axis=0) > 1).any()
    assert all(0 < entry["score"] <= 1 for entry in objects)
    whole = tag_objects(image, maps, [4, 7], TagMaskOptions(0.3, refinement, 0.0, separate=False))
    assert [entry["category_id"] for entry in whole] == [4, 7]


def test_the_background_and_the_smallest_area_decide():
    image, red, green = two_colours()
    maps = torch.from_numpy(np.stack([red * 0.9, green * 0.4])).float()
    assert set(np.unique(label_map(image, maps, 0.3, "none"))) == {-1, 0, 1}
    assert set(np.unique(label_map(image, maps, 0.5, "none"))) == {-1, 0}
    maps[0, 0, 0] = 0.9
    count = [
        len(tag_objects(image, maps, [0, 1], TagMaskOptions(0.5, "none", area)))
        for area in (0.0, 0.01, 0.99)
    ]
    assert count == [2, 1, 1]  # The largest object of a tag is kept.
    for options in ({"background": 1.0}, {"min_area": 1.0}, {"refinement": "magic"}):
        with pytest.raises(InputError):
            TagMaskOptions(**options)


def test_sam_replaces_the_objects():
    predictor = pytest.importorskip("hipie.modeling.sam.predictor", reason="needs segment_anything")
    sam = predictor.Sam.from_source("random:tiny")
    image, red, _ = two_colours()
    maps = torch.from_numpy(red[None]).float()
    (entry,) = tag_objects(image, maps, [3], TagMaskOptions(refinement="sam"), sam)
    expected = sam.encode(image).predict(boxes=torch.tensor([[8.0, 8, 24, 40]])).masks[0, 0]
    actual = mask_util.decode(entry["segmentation"]).astype(bool)
    assert expected.any() and (actual == expected.cpu().numpy()).all()


# The command


@pytest.fixture
def colour_classifier(monkeypatch):
    """Red is a tabby (class 281), green an ox (class 345)."""
    net = ColorNet(1000)
    with torch.no_grad():
        net.fc.weight.zero_()
        net.fc.weight[281, 0] = net.fc.weight[345, 1] = 1
    activation = ClassActivation(net, "net")
    monkeypatch.setattr(ClassActivation, "from_timm", lambda *_: activation)


def test_the_file_of_the_command_is_a_training_set(colour_classifier, tmp_path, capsys):
    write_images(tmp_path, "a.png", "b.png")
    (tmp_path / "t.csv").write_text("a.png,cat,cow\nb.png\n")
    output = tmp_path / "masks.json"
    command = ["from-tags", str(tmp_path / "t.csv"), "--output", str(output)]
    command += ["--classes", "cat: tabby; cow: ox", "--scales", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "cat: tabby\n" in printed and "images: 2; masks: 2; mean confidence" in printed
    _, red, green = two_colours()
    masks = {
        entry["category_id"]: mask_util.decode(entry["segmentation"]).astype(bool)
        for entry in json.loads(output.read_text())["annotations"]
    }
    assert iou(masks[1], red) > 0.8 and iou(masks[2], green) > 0.6
    assert main(["check", str(output), "--images", str(tmp_path)]) == 0
    from detectron2.data import DatasetCatalog

    from hipie.data.datasets import register_coco

    register_coco("tag_masks_for_a_test", str(output), str(tmp_path))
    try:
        records = DatasetCatalog.get("tag_masks_for_a_test")
        assert [record["tags"] for record in records] == [[0, 1], []]
        assert sorted(entry["category_id"] for entry in records[0]["annotations"]) == [0, 1]
        assert all(0 < entry["score"] <= 1 for entry in records[0]["annotations"])
    finally:
        DatasetCatalog.remove("tag_masks_for_a_test")
    with pytest.raises(SystemExit, match="exists; name another file"):
        main(command)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--classes", "cat: tabby; rat: ox"], '--classes has "rat", which is none of the tags'),
        (["--classes", "cat: tabby; cow: quark"], '"quark", for the tag "cow"'),
        (["--background", "2"], "the background must be between 0 and 1"),
        (["--scales", "0"], "--scales must be above 0"),
        (["--min-area", "-1"], "the smallest area must be from 0 to 1"),
    ],
)
def test_wrong_arguments_of_the_command(colour_classifier, tmp_path, capsys, more, message):
    write_images(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text("a.png,cat,cow\n")
    command = ["from-tags", str(tmp_path / "t.csv"), "--output", str(tmp_path / "o.json")]
    with pytest.raises(SystemExit) as stop:
        main([*command, *more])
    printed = f"{capsys.readouterr().err}{stop.value.code}"
    assert message in printed and "Traceback" not in printed
    assert not (tmp_path / "o.json").exists()


def test_the_packaged_classifier_knows_a_cat():
    """In scikit-image's photograph of a cat, the map is higher on its face than at the border."""
    data = pytest.importorskip("skimage.data", reason="needs scikit-image")
    image = np.ascontiguousarray(data.chelsea())
    activation = ClassActivation.from_timm("tf_efficientnet_lite0")
    assert activation.num_classes == 1000
    (tabby,) = activation(image, [[281, 282, 283, 284, 285]], [1.0])
    assert tabby[100:250, 100:300].mean() > 2 * tabby[:, -60:].mean()
