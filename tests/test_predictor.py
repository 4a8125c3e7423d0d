"""`Segmenter`: results, inputs, features that are computed once, and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hipie import Segmenter
from hipie.checkpoint import CheckpointError
from hipie.cli import train
from hipie.data.image_io import ImageError
from hipie.errors import InputError
from hipie.predictor import SET_IMAGE
from hipie.task_predictors.universal import ClassRequest
from hipie.vocabularies import vocabulary as vocabulary_module
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyError

TINY = str(Path(__file__).parent / "tiny.yaml")
THINGS, STUFF = ["dog", "car"], ["grass", "sky"]
NO_TARGET = "MODEL.HIPIE.TEST.NO_TARGET"


@pytest.fixture(scope="module")
def segmenter(tiny_weights: Path, tiny_text: Path) -> Segmenter:
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.OBJECT_MASK_THRESHOLD", 0.0]
    opts += ["MODEL.HIPIE.HIDDEN_DIM", 64, "MODEL.HIPIE.OVERLAP_THRESHOLD", 0.0]
    return Segmenter.from_config(TINY, tiny_weights, "cpu", opts)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)


def test_panoptic_segments_do_not_overlap(segmenter, image) -> None:
    result = segmenter.segment(image, THINGS, STUFF)
    assert result.masks.shape == (len(result), 70, 90)
    assert result.masks.sum(0).max() == 1
    assert set(result.labels) <= {*THINGS, *STUFF}
    assert result.class_names == (*THINGS, *STUFF)
    assert np.array_equal(result.image, image)
    assert ((result.scores >= 0) & (result.scores <= 1)).all()


def test_instances_of_the_model_become_segments(segmenter, image) -> None:
    result = segmenter.segment(image, THINGS, STUFF, output="instances", min_score=0.0)
    prepared = segmenter.prepare(image)
    vocabulary = Vocabulary.from_names(THINGS, STUFF)
    instances = prepared.run(vocabulary=vocabulary)["instances"]
    shown = instances.pred_masks.flatten(1).any(1)
    assert len(result) == int(shown.sum()) > 0
    assert np.array_equal(result.masks, instances.pred_masks[shown].numpy())
    assert result.scores.tolist() == pytest.approx(instances.scores[shown].tolist())
    assert {segment.kind for segment in result} == {"thing"}
    assert (result.masks.sum(0) > 1).any(), "instances may overlap"
    assert result.to_instances().pred_classes.tolist() == instances.pred_classes[shown].tolist()


def test_semantic_output_has_one_segment_a_class(segmenter, image) -> None:
    result = segmenter.segment(image, THINGS, STUFF, output="semantic")
    vocabulary = Vocabulary.from_names(THINGS, STUFF)
    scores = segmenter.prepare(image).run(vocabulary=vocabulary)["sem_seg"]
    classes = scores.argmax(0).numpy()
    assert (result.masks.sum(0) == 1).all()
    assert len(set(result.labels)) == len(result)
    for segment in result:
        index = vocabulary.names.index(segment.label)
        assert np.array_equal(segment.mask, classes == index)
        share = scores[index] / scores.sum(0)
        assert segment.score == pytest.approx(float(share[segment.mask].mean()), abs=1e-5)


@pytest.mark.parametrize("output", ["panoptic", "instances", "semantic"])
def test_min_score_drops_segments_of_lower_scores(segmenter, image, output) -> None:
    everything = segmenter.segment(image, THINGS, STUFF, output=output, min_score=0.0)
    threshold = float(np.median(everything.scores)) + 1e-6
    kept = segmenter.segment(image, THINGS, STUFF, output=output, min_score=threshold)
    assert list(kept.scores) == [s for s in everything.scores if s >= threshold]
    assert len(kept) < len(everything)


def test_outputs_that_do_not_exist_are_refused(segmenter, image) -> None:
    with pytest.raises(ValueError, match='output is "masks"; it has to be panoptic or instances'):
        segmenter.segment(image, THINGS, output="masks")
    with pytest.raises(ValueError, match="needs things; stuff has no instances"):
        segmenter.segment(image, stuff=STUFF, output="instances")


def test_segmenter_and_evaluation_score_small_vocabularies_alike(tiny_weights, tiny_text) -> None:
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.HIDDEN_DIM", "64"]
    key = "MODEL.HIPIE.TEST.MIN_SOFTMAX_CLASSES"
    for more, expected in (((), 133), ((key, "0"), 0)):
        segmenter = Segmenter.from_config(TINY, tiny_weights, "cpu", [*opts, *more])
        evaluated = train.parse_arguments(["--config-file", TINY, "--eval-only", *opts, *more])
        cfg = train.read_config(evaluated)
        assert segmenter.cfg.MODEL.HIPIE.TEST == cfg.MODEL.HIPIE.TEST
        assert segmenter.model.settings.min_softmax_classes == expected


def test_every_kind_of_image_gives_the_same_result(segmenter, image, tmp_path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    expected = segmenter.segment(image, THINGS, STUFF)
    chw = torch.from_numpy(image).permute(2, 0, 1)
    scaled = image / np.float32(255)
    kinds = (path, str(path), Image.fromarray(image), scaled, chw, chw.float() / 255)
    for given in kinds:
        assert segmenter.segment(given, THINGS, STUFF) == expected


def test_parts_are_inside_their_whole(segmenter, image) -> None:
    parts = {"dog": ["head", "tail"], "car": ["wheel"]}
    result = segmenter.segment(image, ["car"], STUFF, parts)
    for segment in result:
        for part in segment.parts:
            assert part.label.startswith(segment.label)
            assert not (part.mask & ~segment.mask).any()
    assert set(result.parts) <= {"dog", "car"}


def test_refer_returns_one_segment_an_expression_in_order(segmenter, image) -> None:
    expressions = ["the red dog", "the largest car"]
    result = segmenter.refer(image, expressions)
    assert result.labels == expressions
    alone = segmenter.refer(image, expressions[1])
    assert np.array_equal(result.masks[1], alone.masks[0])


def test_expressions_below_the_threshold_describe_nothing(segmenter, image) -> None:
    expressions = ["the red dog", "the largest car"]
    best = segmenter.refer(image, expressions, threshold=0)
    assert best.areas.any() and best == segmenter.refer(image, expressions)
    low, high = sorted(best.scores.tolist())
    assert low < high
    for threshold in ((low + high) / 2, 1):
        accepted = segmenter.refer(image, expressions, threshold=threshold)
        assert np.array_equal(accepted.scores, best.scores)
        expected = np.where(best.scores >= threshold, best.areas, 0)
        assert accepted.areas.tolist() == expected.tolist()
    for threshold, message in ((1.5, "0 to 1, and is 1.5"), ("half", "must be a number")):
        with pytest.raises(InputError, match=message):
            segmenter.refer(image, expressions, threshold=threshold)


def test_threshold_of_the_configuration_is_the_default(segmenter, image, tiny_weights) -> None:
    opts = ["MODEL.HIPIE.TEXT.SOURCE", segmenter.cfg.MODEL.HIPIE.TEXT.SOURCE]
    opts += ["MODEL.HIPIE.HIDDEN_DIM", 64]
    strict = Segmenter.from_config(TINY, tiny_weights, "cpu", [*opts, NO_TARGET, 1.0])
    assert not strict.refer(image, "the largest car").areas.any()
    assert strict.refer(image, "the largest car", threshold=0).areas.all()
    prepared = strict.prepare(image)
    assert len(prepared.run(expressions=["the largest car"])["referring"][0]) == 0
    request = {"expressions": ["the largest car"], "results": ("best_instances",)}
    (best,) = prepared.run(**request)["referring"]
    assert len(best) == 1
    with pytest.raises(InputError, match="NO_TARGET must be in 0 to 1"):
        Segmenter.from_config(TINY, tiny_weights, "cpu", [*opts, NO_TARGET, -0.5])


def test_models_without_groups_segment_a_group_image_by_image(segmenter, image) -> None:
    smaller = image[:50]
    results = segmenter.refer_group([image, smaller], "the dog")
    assert [result.masks.shape[1:] for result in results] == [(70, 90), (50, 90)]
    assert np.array_equal(results[1].masks, segmenter.refer(smaller, "the dog").masks)


@pytest.mark.parametrize("size", [(1, 1), (8, 200), (400, 5)])
def test_images_of_any_shape(segmenter, size) -> None:
    result = segmenter.segment(np.zeros((*size, 3), np.uint8), THINGS, STUFF)
    assert result.masks.shape[1:] == size


def test_long_expressions_are_truncated(segmenter, image) -> None:
    with pytest.warns(UserWarning, match="only the first"):
        assert len(segmenter.refer(image, "the dog " * 500)) == 1


@pytest.mark.parametrize(
    ("things", "message"),
    [
        ([], "at least one class"),
        (["dog", "dog"], "dog"),
        (["dog", "?!"], r"\?!"),
        (["dog", ()], "class name"),
        (b"box", "things must be a list of strings, not b'box' of type bytes"),
        ({"box": []}, "things must be a list of strings, not {'box'"),
        ("box, dog", "several classes or one with synonyms: pass"),
        (3, "things must be a list of strings, not 3 of type int"),
        ([3], "a class name must be a string, not 3 of type int"),
        ([("dog", 3)], 'a synonym of "dog" must be a string, not 3 of type int'),
        (["Dog", "dog"], 'as "Dog", and case makes no difference'),
    ],
)
def test_bad_class_names_are_named(segmenter, image, things, message) -> None:
    with pytest.raises(ValueError, match=message):
        segmenter.segment(image, things)
    with pytest.raises(ValueError, match=message):
        segmenter.label(image, np.ones((1, 70, 90), bool), things)


def test_requests_read_names_once_and_in_any_form() -> None:
    expected = ClassRequest.from_names(["ball", "box"], ["grass"], {"box": ["lid"]})
    for things, parts in [
        ((name for name in ["ball", "box"]), {"box": (name for name in ["lid"])}),
        ("ball; box", "box: lid"),
        (["ball", "box"], {"BOX": "lid"}),
    ]:
        assert ClassRequest.from_names(things, "grass", parts) == expected
    assert expected.class_names == ("ball", "box", "grass", "box lid")
    nested = ClassRequest.from_names(["Dog"], (), {"dog": ["head"], "dog head": ["eye"]})
    assert nested.class_names == ("Dog", "Dog head", "Dog eye")
    assert ClassRequest.from_names(["ball"], (), {"ball": []}).part_vocabulary is None


def test_parts_of_stuff_are_refused() -> None:
    with pytest.raises(ValueError, match='"grass" is stuff and has parts; only things have parts'):
        ClassRequest.from_names(["ball"], ["grass"], {"Grass": ["blade"]})
    with pytest.raises(ValueError, match="given twice"):
        ClassRequest.from_names(["ball"], (), {"ball": ["top"], "Ball": ["side"]})


@pytest.mark.parametrize("expression", ["", "  ", "...", []])
def test_expressions_without_letters_are_refused(segmenter, image, expression) -> None:
    with pytest.raises(ValueError, match="expression"):
        segmenter.refer(image, expression)


def test_missing_image_is_named(segmenter, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        segmenter.segment(tmp_path / "nowhere.png", THINGS)


def test_file_that_is_no_image_is_named(segmenter, tmp_path) -> None:
    path = tmp_path / "letter.jpg"
    path.write_text("Dear reader")
    with pytest.raises(ImageError, match=r"letter\.jpg"):
        segmenter.segment(path, THINGS)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 4, 3), 200.0), "in 0..1, and this one ranges from 200 to 200"),
        (np.full((4, 4, 3), -0.5), "ranges from -0.5 to -0.5"),
        (np.full((4, 4, 3), np.nan), "ranges from nan to nan"),
        (np.zeros((4, 4, 3), np.int64), "an array of int64 is not an image"),
        (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\) is not an image"),
        (torch.zeros(4, 4, 3), r"shape \[4, 4, 3\] is not an image; expected \[3, H, W\]"),
        (torch.zeros(1, 3, 4, 4), r"shape \[1, 3, 4, 4\] is not an image"),
        (torch.full((3, 4, 4), 255.0), "ranges from 255 to 255"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "an array of int64 is not an image"),
        ([[0, 0]], "an image of type list cannot be read; pass several"),
        (None, "the image is None, which cv2.imread returns for a file that it cannot read"),
    ],
)
def test_arrays_and_tensors_that_are_no_image_are_refused(segmenter, image, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        segmenter.segment(image, THINGS)
    assert "\n" not in str(caught.value)


def test_bfloat16_tensors_are_read(segmenter) -> None:
    white = torch.ones(3, 20, 30, dtype=torch.bfloat16)
    assert (segmenter.segment(white, THINGS).image == 255).all()


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
def test_device_is_text_or_a_device(tiny_weights, tiny_text, image, device) -> None:
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.HIDDEN_DIM", 64]
    segmenter = Segmenter.from_config(TINY, tiny_weights, device, opts)
    available = "cuda" if device is None and torch.cuda.is_available() else "cpu"
    assert segmenter.device.type == available


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="the device 'gpu' does not exist"):
        Segmenter.from_config(TINY, device="gpu")


def test_to_moves_the_model_and_encodes_the_image_again(segmenter, image, monkeypatch) -> None:
    moved = []
    monkeypatch.setattr(segmenter.model, "to", moved.append)
    segmenter.set_image(image)
    before = segmenter._image
    assert segmenter.to("cpu") is segmenter
    assert moved == ["cpu"]
    assert segmenter._image is not before and np.array_equal(segmenter._image.pixels, image)
    segmenter.reset_image()
    assert segmenter.to(torch.device("cpu")) is segmenter and segmenter._image is None


def test_unknown_configuration_names_similar_ones() -> None:
    with pytest.raises(ValueError, match="hipie_nano_picturebook"):
        Segmenter.from_config("hipie_nano_picturbook")


def test_missing_weights_are_named(tmp_path) -> None:
    with pytest.raises((CheckpointError, FileNotFoundError), match=r"none\.pth"):
        Segmenter.from_config(TINY, tmp_path / "none.pth", "cpu")


def test_configuration_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no weights"):
        Segmenter.from_config(TINY, device="cpu")


def test_task_that_the_model_lacks_is_named(segmenter, image, monkeypatch) -> None:
    monkeypatch.setattr(type(segmenter.model), "tasks", frozenset({"universal"}))
    with pytest.raises(ValueError, match=r"cannot refer\(\)"):
        segmenter.refer(image, "the dog")


@pytest.mark.parametrize(
    "images",
    [[], "image.png", b"bytes", None, 3, {"a": 1}, np.zeros((70, 90, 3), np.uint8), iter(())],
    ids=lambda images: type(images).__name__,
)
def test_group_is_a_list_of_images(segmenter, images) -> None:
    with pytest.raises(ValueError, match="needs a list of images, with at least one"):
        segmenter.refer_group(images, "the dog")


def test_groups_are_read_once_and_have_no_missing_image(segmenter, image) -> None:
    segmenter.set_image(np.zeros_like(image))
    results = segmenter.refer_group((each for each in [image, image]), "the dog")
    assert [np.array_equal(result.image, image) for result in results] == [True, True]
    with pytest.raises(ImageError, match=r"image 1 of the group is None, which cv2\.imread"):
        segmenter.refer_group([image, None], "the dog")
    with pytest.raises(ValueError, match="needs one expression, a string, not"):
        segmenter.refer_group([image], ["the dog"])
    segmenter.reset_image()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_score", "0.5"),
        ("min_score", 1.5),
        ("min_score", float("nan")),
        ("min_area", -1),
        ("max_segments", 0),
        ("max_segments", True),
    ],
)
def test_options_out_of_range_are_named(segmenter, image, option, value) -> None:
    with pytest.raises(ValueError, match=f"{option} has to be a number"):
        segmenter.segment(image, THINGS, **{option: value})


@pytest.mark.parametrize("expressions", [b"the dog", 3, {"the dog": 1}, [3], ["the dog", None]])
def test_expressions_of_other_types_are_named(segmenter, image, expressions) -> None:
    with pytest.raises(ValueError, match="must be a (list of strings|string), not"):
        segmenter.refer(image, expressions)


def test_masks_in_every_form_are_labelled(segmenter, image) -> None:
    masks = np.zeros((2, 70, 90), bool)
    masks[0, :20], masks[1, 30:] = True, True
    expected = segmenter.label(image, masks, THINGS)
    for form in (torch.from_numpy(masks), list(masks), masks.astype(np.uint8), (m for m in masks)):
        assert segmenter.label(image, form, THINGS) == expected
    for wrong in ("masks", 3, [masks[0], masks[0, :9]], ["a"]):
        with pytest.raises(ValueError, match=r"mask"):
            segmenter.label(image, wrong, THINGS)


def test_results_name_their_file(segmenter, image, tmp_path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    assert segmenter.segment(path, THINGS).file_name == str(path)
    assert segmenter.segment(image, THINGS).file_name == ""
    segmenter.set_image(path).to("cpu")
    assert segmenter.refer(expressions="the dog").to_dict()["image"]["file"] == str(path)
    segmenter.reset_image()


@pytest.fixture
def backbone_calls(segmenter):
    """Sizes of the images that the backbone was run on."""
    calls: list[tuple[int, ...]] = []
    hook = segmenter.model.backbone.register_forward_hook(
        lambda _, inputs, __: calls.append(tuple(inputs[0].shape))
    )
    yield calls
    hook.remove()
    segmenter.reset_image()


def test_calls_on_a_set_image_share_one_run_of_the_backbone(
    segmenter, image, backbone_calls
) -> None:
    assert segmenter.set_image(image) is segmenter
    segmenter.segment(things=THINGS, stuff=STUFF)
    segmenter.segment(things=THINGS, stuff=STUFF, parts={"dog": ["head"]}, output="instances")
    segmenter.refer(expressions=["the red dog", "the largest car"])
    segmenter.refer(expressions="the car")
    segmenter.label(masks=np.ones((1, 70, 90), bool), things=THINGS)
    assert len(backbone_calls) == 1


def test_parts_are_segmented_in_one_run_of_the_backbone(segmenter, image, backbone_calls) -> None:
    segmenter.segment(image, THINGS, STUFF, {"dog": ["head", "tail"]})
    assert len(backbone_calls) == 1


def test_results_on_a_set_image_are_equal_to_the_bit(segmenter, image, backbone_calls) -> None:
    parts, masks = {"dog": ["head", "tail"]}, np.ones((1, 70, 90), bool)
    calls = {
        "panoptic": lambda *image: segmenter.segment(*image, things=THINGS, stuff=STUFF),
        "parts": lambda *image: segmenter.segment(*image, things=THINGS, stuff=STUFF, parts=parts),
        "instances": lambda *image: segmenter.segment(*image, things=THINGS, output="instances"),
        "semantic": lambda *image: segmenter.segment(*image, things=THINGS, output="semantic"),
        "refer": lambda *image: segmenter.refer(*image, expressions=["the red dog", "the car"]),
        "label": lambda *image: segmenter.label(*image, masks=masks, things=THINGS, stuff=STUFF),
    }
    expected = {name: call(image) for name, call in calls.items()}
    segmenter.set_image(image)
    assert {name: call() for name, call in calls.items()} == expected
    assert {name: call(SET_IMAGE) for name, call in calls.items()} == expected


def test_none_is_no_image_after_set_image(segmenter, image, backbone_calls) -> None:
    """`segmenter.segment(cv2.imread(file))` must not be the result of the image before."""
    segmenter.set_image(image)
    masks = np.ones((1, 70, 90), bool)
    calls = (
        lambda: segmenter.segment(None, THINGS),
        lambda: segmenter.best_score(None, THINGS),
        lambda: segmenter.label(None, masks, THINGS),
        lambda: segmenter.refer(None, "the dog"),
        lambda: segmenter.prepare(None),
        lambda: segmenter.set_image(None),
    )
    for call in calls:
        with pytest.raises(ImageError, match=r"the image is None, which cv2\.imread returns"):
            call()
    assert len(segmenter.segment(things=THINGS).image) == 70


def test_class_names_that_the_text_encoder_does_not_know_are_refused(segmenter, image) -> None:
    for call in (
        lambda: segmenter.segment(image, THINGS, ["球"]),
        lambda: segmenter.best_score(image, ["球"]),
        lambda: segmenter.label(image, np.ones((1, 70, 90), bool), ["球"]),
    ):
        with pytest.raises(
            VocabularyError, match=r"球.*bert-base-multilingual-cased knows Chinese"
        ):
            call()


def test_class_names_of_equal_tokens_are_a_warning_once(segmenter, image, caplog) -> None:
    for _ in range(2):
        segmenter.segment(image, ["box (a)", "box (b)"])
    (record,) = [r for r in caplog.records if "apart" in r.getMessage()]
    assert 'cannot tell the class names "box (a)", "box (b)" apart' in record.getMessage()
    assert record.name == "hipie.task_predictors.class_names"
    caplog.clear()
    segmenter.segment(image, THINGS, STUFF)
    assert not caplog.records


def test_given_image_is_used_instead_of_the_set_one(segmenter, image, backbone_calls) -> None:
    expected = segmenter.segment(image, THINGS, STUFF)
    segmenter.set_image(image[:30])
    assert segmenter.segment(image, THINGS, STUFF) == expected
    assert segmenter.segment(things=THINGS).image.shape == (30, 90, 3)
    segmenter.reset_image()
    with pytest.raises(ValueError, match="pass one, or call set_image first"):
        segmenter.refer(expressions="the dog")


def test_class_names_become_a_vocabulary_once(segmenter, image, monkeypatch) -> None:
    cleaned, original = [], vocabulary_module.clean_class_name
    monkeypatch.setattr(
        vocabulary_module, "clean_class_name", lambda n: cleaned.append(n) or original(n)
    )
    ClassRequest.from_names(THINGS, STUFF, {"dog": ["head"]})
    assert sorted(set(cleaned)) == sorted([*THINGS, *STUFF, "dog head"])
    assert all(cleaned.count(name) == 1 for name in [*THINGS, *STUFF])
