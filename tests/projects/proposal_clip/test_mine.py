"""Pairs of masks and nouns of captions."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from hipie.errors import InputError, UsageError
from hipie_proposal_clip import mine
from hipie_proposal_clip.caption_nouns import NounFinder

COLOURS = {"cherry": (220, 20, 20), "leaf": (20, 200, 20), "blue bus": (20, 20, 210)}


def colour_model(masks):
    """ProposalCLIP's interface: proposals, and a CLIP that compares a mask's colour with names."""
    unit = torch.nn.functional.normalize
    text = torch.tensor(list(COLOURS.values())).float()

    def features(image, chosen):
        return unit(torch.stack([image[:, mask].mean(1) for mask in chosen]), dim=1)

    return SimpleNamespace(
        proposals=lambda image, vocabulary: masks,
        mask_features=features,
        clip=SimpleNamespace(
            text_features=lambda nouns, templates: unit(
                torch.stack([text[list(COLOURS).index(noun)] for noun in nouns]), dim=1
            )
        ),
        classification=SimpleNamespace(templates="one"),
        device=torch.device("cpu"),
    )


@pytest.fixture
def captioned(tmp_path):
    """A captions file and its folder: an image of three coloured boxes, and one without a noun."""
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[2:12, 2:12], pixels[20:35, 5:20], pixels[5:30, 30:55] = COLOURS.values()
    for name in ("boxes.png", "other.png", "unused.png"):
        Image.fromarray(pixels).save(folder / name)
    file = tmp_path / "captions.json"
    captions = [(7, "Two cherries near a blue bus."), (7, "A leaf, a leaf."), (9, "Nothing here")]
    file.write_text(
        json.dumps(
            {
                "images": [
                    {"id": 7, "file_name": "boxes.png"},
                    {"id": 9, "file_name": "other.png"},
                    {"id": 10, "file_name": "unused.png"},
                ],
                "annotations": [{"image_id": i, "caption": text} for i, text in captions],
            }
        )
    )
    return file, folder


@pytest.fixture
def proposals():
    """The three boxes, the largest first, the background, and an empty mask."""
    masks = torch.zeros(5, 40, 60, dtype=torch.bool)
    masks[0, 5:30, 30:55] = masks[1, 20:35, 5:20] = masks[2, 2:12, 2:12] = True
    masks[3] = ~masks[:3].any(0)
    return masks


def test_nouns_are_the_longest_names_and_their_plurals():
    finder = NounFinder(["bus", "blue bus", "Cherry", "person", "glass", "knife", "bus"])
    assert finder("Blue buses, a bus; two cherries") == ["blue bus", "bus", "cherry"]
    assert finder("people with glasses and knives") == ["person", "glass", "knife"]
    assert finder("a busy street") == [] == finder("")
    with pytest.raises(InputError, match="at least one noun"):
        NounFinder(["", " - "])


def test_every_noun_has_its_most_similar_mask(captioned, proposals):
    file, folder = captioned
    records = mine.caption_records(str(file), str(folder))
    content = mine.mined_annotations(colour_model(proposals), records, NounFinder(COLOURS))
    assert [image["file_name"] for image in content["images"]] == ["boxes.png"]
    assert [c["name"] for c in content["categories"]] == ["cherry", "blue bus", "leaf"]
    expected = {"cherry": 2, "blue bus": 0, "leaf": 1}
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert len(content["annotations"]) == 3
    for entry in content["annotations"]:
        mask = mask_util.decode(entry["segmentation"]) > 0
        np.testing.assert_array_equal(mask, proposals[expected[names[entry["category_id"]]]])
        assert entry["area"] == mask.sum()


def test_an_image_without_a_proposal_has_no_pair(captioned):
    file, folder = captioned
    records = mine.caption_records(str(file), str(folder))
    model = colour_model(torch.zeros(0, 40, 60, dtype=torch.bool))
    masks, best = mine.noun_masks(model, torch.rand(3, 40, 60), ["leaf"])
    assert not len(masks) and best == []
    with pytest.raises(InputError, match="no caption has a noun of the list"):
        mine.mined_annotations(model, records, NounFinder(["zebra"]))


def test_first_captions_of_an_image_count(captioned):
    file, folder = captioned
    (first, *_) = mine.caption_records(str(file), str(folder), 1)
    assert first["captions"] == ["Two cherries near a blue bus."]
    (both, *_) = mine.caption_records(str(file), str(folder), 0)
    assert len(both["captions"]) == 2


def test_decoders_have_no_proposals():
    model = SimpleNamespace(proposals=None)
    with pytest.raises(InputError, match="MASKS has to be sam, kmeans or hipie"):
        mine.noun_masks(model, torch.rand(3, 8, 8), ["leaf"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"image_id": 7}]}, r"annotations\[0\] needs `image_id` and the text"),
        ({"images": [{"id": 7}]}, r"images\[0\] needs `id` and the text `file_name`"),
        ({"images": [{"id": 7, "file_name": "no.png"}]}, "image 7 is .*no.png, which is no file"),
        ({"images": []}, "no image has a caption"),
    ],
)
def test_other_files_are_named(captioned, change, message):
    file, folder = captioned
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        mine.caption_records(str(file), str(folder))


def test_mined_file_tunes_clip(captioned, small_cfg, tmp_path):
    """The command's file is a training set of CLIP's tuning on masked crops."""
    from detectron2.modeling import build_model

    from hipie.data.build import build_train_loader

    file, folder = captioned
    nouns, output = tmp_path / "nouns.txt", tmp_path / "made" / "mined.json"
    nouns.write_text("cherry\nblue bus\nleaf\n")
    arguments = [
        *("--config-file", "projects/ProposalCLIP/configs/kmeans_random.yaml"),
        *("--captions", str(file), "--images", str(folder), "--nouns", str(nouns)),
        *("--captions-per-image", "0", "--output", str(output)),
    ]
    assert mine._run(mine._parser().parse_args(arguments)) == 0
    with pytest.raises(UsageError, match="mined.json exists already"):
        mine._run(mine._parser().parse_args(arguments))
    cfg = small_cfg(
        "ovseg_nano_picturebook.yaml",
        *("DATASETS.COCO_FORMAT", [["mined", str(output), str(folder)]]),
        *("DATASETS.TRAIN", ("mined",), "SOLVER.IMS_PER_BATCH", 1),
        *("MODEL.PROPOSAL_CLIP.TRAIN", "clip", "MODEL.PROPOSAL_CLIP.MASK_PROMPT_DEPTH", 0),
    )
    batch = next(iter(build_train_loader(cfg)))
    assert {"cherry", "leaf"} & set(batch[0]["vocabulary"].names)
    losses = build_model(cfg).train()(batch)
    assert torch.isfinite(losses["loss_contrastive"])
