"""HIPIE at its smallest: results, losses, batches, image features, default vocabularies."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from PIL import Image

from hipie import memory_check
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

ROOT = Path(__file__).parents[3]
VOCABULARY = Vocabulary.from_names(things=["red car", "dog"], stuff=["grass", "open sky"])


def make_image(seed: int, height: int = 64, width: int = 96) -> torch.Tensor:
    """Noise over a gradient, [3, height, width], 0..255."""
    generator = torch.Generator().manual_seed(seed)
    across = torch.linspace(0, 160, width).expand(3, height, width)
    return across + 90 * torch.rand(3, height, width, generator=generator)


def make_instances(labels: list[int], height: int = 64, width: int = 96) -> Instances:
    """Rectangles of the given classes, side by side."""
    masks = torch.zeros(len(labels), height, width, dtype=torch.bool)
    for i in range(len(labels)):
        masks[i, 8 + 4 * i : 40, 12 * i : 12 * i + 20] = True
    boxes = [[12 * i, 8 + 4 * i, 12 * i + 20, 40] for i in range(len(labels))]
    instances = Instances((height, width))
    instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_masks = BitMasks(masks)
    return instances


def training_input(task: str, seed: int = 0, labels: list[int] | None = None, **changes) -> dict:
    """Training input of a task."""
    labels = [0, 1, 2] if labels is None else labels
    if task == "referring":
        text = {"expressions": ["the red car", "a dog on the left"]}
        labels = [label for label in labels if label < 2]
    else:
        text = {"vocabulary": VOCABULARY}
    return {
        "image": make_image(seed),
        "task": task,
        "instances": make_instances(labels),
        "height": 64,
        "width": 96,
        **text,
        **changes,
    }


def randomise_zero_heads(model: torch.nn.Module) -> torch.nn.Module:
    """Randomise heads that are initialised to zero, so that all have an effect."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ("box" in name and "layers.2" in name) or "attention_weights" in name:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(0.2 * noise)
    return model


@pytest.fixture
def model(tiny_cfg):
    torch.manual_seed(0)
    return randomise_zero_heads(build_model(tiny_cfg)).eval()


def close(first, second, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(first, second, atol=tolerance, rtol=tolerance)


def assert_same_instances(first: Instances, second: Instances) -> None:
    """Equal up to rounding; rows are compared in order, so scores must not be tied."""
    close(first.scores, second.scores)
    assert torch.equal(first.pred_classes, second.pred_classes)
    close(first.pred_boxes.tensor, second.pred_boxes.tensor, 1e-2)
    assert (first.pred_masks != second.pred_masks).float().mean() < 1e-4


def assert_same_results(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    if "referring" in first:
        for a, b in zip(first["referring"], second["referring"], strict=True):
            assert_same_instances(a, b)
        return
    assert_same_instances(first["instances"], second["instances"])
    close(first["sem_seg"], second["sem_seg"])
    assert (first["panoptic_seg"][0] != second["panoptic_seg"][0]).float().mean() < 1e-3
    assert [s["category_id"] for s in first["panoptic_seg"][1]] == [
        s["category_id"] for s in second["panoptic_seg"][1]
    ]


def test_results_have_the_shapes_of_detectron2(model):
    (result,) = model(
        [{"image": make_image(0), "vocabulary": VOCABULARY, "height": 50, "width": 70}]
    )
    assert result.keys() == {"instances", "sem_seg", "panoptic_seg"}
    assert result["sem_seg"].shape == (4, 50, 70)
    assert result["instances"].image_size == (50, 70)
    assert result["instances"].pred_masks.shape[1:] == (50, 70)
    assert set(result["instances"].pred_classes.tolist()) <= {0, 1}
    segments, infos = result["panoptic_seg"]
    assert segments.shape == (50, 70)
    assert set(segments.unique().tolist()) - {0} == {info["id"] for info in infos}
    assert all(info["isthing"] == (info["category_id"] < 2) for info in infos)


def test_without_a_size_results_are_as_large_as_the_image(model):
    (result,) = model([{"image": make_image(0), "vocabulary": VOCABULARY}])
    assert result["sem_seg"].shape == (4, 64, 96)


def test_a_batch_equals_single_images(model):
    batch = [{"image": make_image(seed), "vocabulary": VOCABULARY} for seed in range(3)]
    together = model(batch)
    for item, result in zip(batch, together, strict=True):
        assert_same_results(model([item])[0], result)


def test_expressions_of_a_batch_equal_single_ones(model):
    expressions = ["the red car", "a small dog on the left of the house", "it"]
    batch = [{"image": make_image(seed), "expressions": expressions} for seed in range(2)]
    together = model(batch)
    for item, result in zip(batch, together, strict=True):
        for i, expression in enumerate(expressions):
            (alone,) = model([{**item, "expressions": [expression]}])[0]["referring"]
            assert_same_instances(alone, result["referring"][i])


def test_more_expressions_than_a_chunk(model):
    expressions = [f"the {letter} dog" for letter in "abcdefghijklmnopqrs"]
    (result,) = model([{"image": make_image(0), "expressions": expressions}])
    assert len(result["referring"]) == 19
    assert all(len(instances) == 1 for instances in result["referring"])
    (alone,) = model([{"image": make_image(0), "expressions": expressions[-1:]}])[0]["referring"]
    assert_same_instances(alone, result["referring"][-1])


def test_vocabularies_and_expressions_may_mix(model):
    with_vocabulary = {"image": make_image(0), "vocabulary": VOCABULARY}
    with_expressions = {"image": make_image(1), "expressions": ["the red car", "a dog"]}
    results = model([with_expressions, with_vocabulary, with_expressions])
    assert_same_results(results[0], model([with_expressions])[0])
    assert_same_results(results[1], model([with_vocabulary])[0])
    assert_same_results(results[2], results[0])


def test_image_features_give_the_same_results(model):
    """Features are computed once, then used with several vocabularies and expressions."""
    image = make_image(0)
    features = model.encode_images([{"image": image}])
    assert features.image_sizes == ((64, 96),) and len(features) == 1
    other = Vocabulary.from_names(stuff=["sand"], parts={"house": ["roof"]})
    for text in (
        {"vocabulary": VOCABULARY},
        {"vocabulary": other},
        {"expressions": ["the red car", "a dog"]},
    ):
        (expected,) = model([{"image": image, **text, "height": 50, "width": 70}])
        (result,) = model.inference([{**text, "height": 50, "width": 70}], features)
        assert_same_results(result, expected)


def test_image_features_serve_a_batch(model):
    images = [make_image(0), make_image(1)]
    inputs = [
        {"image": images[0], "expressions": ["the red car"]},
        {"image": images[1], "vocabulary": VOCABULARY},
    ]
    features = model.encode_images(inputs)
    for result, item in zip(model.inference(inputs, features), inputs, strict=True):
        assert_same_results(result, model([item])[0])
    single = model.encode_images(inputs[:1])
    both = [{"vocabulary": VOCABULARY}, {"expressions": ["a dog"]}]
    for result, item in zip(model.inference(both, single), both, strict=True):
        assert_same_results(result, model([{"image": images[0], **item}])[0])
    with pytest.raises(ValueError, match="3 inputs and features of 2 images"):
        model.inference([*inputs, inputs[0]], features)


def test_image_features_are_not_computed_again(model, monkeypatch):
    features = model.encode_images([{"image": make_image(0)}])
    for module in (model.backbone, model.stuff.pixel_decoder, model.things.projections):
        monkeypatch.setattr(module, "forward", None)
    model.inference([{"vocabulary": VOCABULARY}], features)
    model.inference([{"expressions": ["a dog"]}], features)


def test_expressions_do_not_run_the_stuff_decoder(model, monkeypatch):
    monkeypatch.setattr(model.stuff.pixel_decoder, "forward", None)
    inputs = [{"image": make_image(0), "expressions": ["a dog"]}]
    model(inputs)
    features = model.encode_images(inputs, stuff=False)
    with pytest.raises(ValueError, match="stuff decoder"):
        model.inference([{"vocabulary": VOCABULARY}], features)


def test_decoding_and_postprocessing_give_the_results(model):
    inputs = [{"image": make_image(seed), "vocabulary": VOCABULARY} for seed in range(2)]
    output = model.decode(inputs)
    scores = [model.clip_scores(item) for item in inputs]
    assert scores == [None, None]
    for result, expected in zip(
        model.postprocess(inputs, output, scores), model(inputs), strict=True
    ):
        assert_same_results(result, expected)


def test_image_features_can_be_pickled(model):
    features = model.encode_images([{"image": make_image(0)}])
    copy = pickle.loads(pickle.dumps(features))
    assert torch.equal(copy.things.tokens, features.things.tokens)
    assert torch.equal(copy.stuff.layers[-1].boxes, features.stuff.layers[-1].boxes)


def test_permuted_token_spans_permute_results(model, monkeypatch):
    """The caption is fixed; the assignment of tokens to classes is permuted."""
    order = [2, 0, 3, 1]
    plain = model([{"image": make_image(0), "vocabulary": VOCABULARY}])[0]
    read = model.text_encoder.forward

    def permuted(captions):
        text = read(captions)
        spans = tuple(tuple(spans[i] for i in order) for spans in text.token_spans)
        return replace(text, token_spans=spans)

    from hipie.modeling.meta_arch import hipie as universal

    caption = universal.vocabulary_caption(VOCABULARY)
    moved = Vocabulary([VOCABULARY.classes[i] for i in order])
    monkeypatch.setattr(universal, "vocabulary_caption", lambda vocabulary: caption)
    monkeypatch.setattr(model.text_encoder, "forward", permuted)
    result = model([{"image": make_image(0), "vocabulary": moved}])[0]
    close(result["sem_seg"], plain["sem_seg"][order], 1e-5)
    place = torch.tensor([order.index(i) for i in range(4)])
    close(result["instances"].scores, plain["instances"].scores, 1e-6)
    assert torch.equal(result["instances"].pred_classes, place[plain["instances"].pred_classes])
    close(result["instances"].pred_boxes.tensor, plain["instances"].pred_boxes.tensor, 1e-4)
    assert torch.equal(result["instances"].pred_masks, plain["instances"].pred_masks)
    assert sorted(info["category_id"] for info in result["panoptic_seg"][1]) == sorted(
        int(place[info["category_id"]]) for info in plain["panoptic_seg"][1]
    )


@pytest.mark.parametrize("task", ["detection", "parts", "referring"])
def test_losses_are_finite_and_have_gradients(model, task):
    model.train()
    losses = model([training_input(task, 0), training_input(task, 1, [1])])
    assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
    assert sum(losses.values()) > 0
    sum(losses.values()).backward()
    touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    branches = {"detection": {"things", "stuff"}, "parts": {"stuff"}, "referring": {"things"}}
    assert branches[task] <= touched
    assert ("stuff" in touched) == (task != "referring")
    assert "text_encoder" not in touched  # frozen
    has_things = any(not name.endswith("_maskdino") for name in losses)
    assert has_things == (task != "parts")


@pytest.mark.parametrize("task", ["detection", "parts", "referring"])
def test_losses_are_finite_on_empty_images(model, task):
    model.train()
    for batch in (
        [training_input(task, 0, [])],
        [training_input(task, 0, []), training_input(task, 1, [0])],
    ):
        losses = model(batch)
        assert all(value.isfinite() for value in losses.values())
        model.zero_grad()
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_steps_on_expressions_without_target_lower_all_their_scores(tiny_cfg):
    tiny_cfg.INPUT.GENERALIZED_EXPRESSIONS = True
    torch.manual_seed(0)
    model = randomise_zero_heads(build_model(tiny_cfg))
    item = training_input("referring", 0, [])

    def logits() -> torch.Tensor:
        model.eval()
        return model.predict_raw([item]).things.token_logits[..., 0]

    before = logits()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(4):
        model.train()
        losses = model([item])
        assert losses["loss_ce"] > 0
        assert losses["loss_mask"] == losses["loss_bbox"] == 0
        optimizer.zero_grad()
        losses["loss_ce"].backward()
        optimizer.step()
    assert (logits() < before).all()


def test_images_with_stuff_only_have_no_thing_losses(model):
    model.train()
    losses = model([training_input("detection", 0, [2, 3])])
    assert losses["loss_bbox"].item() == losses["loss_mask"].item() == 0.0
    assert losses["loss_mask_maskdino"] > 0


def test_semantic_maps_train_the_stuff_decoder_only(model):
    model.train()
    model.zero_grad()
    losses = model([training_input("semantic", 0, [2, 3])])
    assert losses and all("maskdino" in name for name in losses)
    sum(losses.values()).backward()
    assert all(p.grad is None for p in model.things.decoder.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.stuff.decoder.parameters())


def test_the_same_seed_gives_the_same_losses(model):
    model.train()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(model([training_input("detection")]))
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_parts_are_positive_for_their_whole_by_option(model):
    """With the option the dog's head is positive for `dog` in the name of the dog's tail too."""
    parts = Vocabulary(
        [
            VocabularyClass("dog head", "part", whole="dog"),
            VocabularyClass("cat tail", "part", whole="cat"),
            VocabularyClass("dog tail", "part", whole="dog"),
        ]
    )
    batch = [training_input("parts", 0, [0], vocabulary=parts)]
    positives = []
    steps = model.stuff_criterion.steps

    def recorded_steps(output, targets, *rest):
        positives.append(targets[0].positive_map[0])
        return steps(output, targets, *rest)

    model.stuff_criterion.steps = recorded_steps
    model.train()
    for propagate in (False, True):
        model.propagate_part_to_whole = propagate
        model(batch)
    # [CLS] dog head . cat tail . dog tail [SEP]
    assert [row.nonzero().flatten().tolist() for row in positives] == [[1, 2], [1, 2, 7]]


@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_autocast(model, training):
    with torch.autocast("cpu", torch.bfloat16):
        if training:
            for task in ("detection", "parts", "referring"):
                losses = model.train()([training_input(task)])
                assert all(value.isfinite() for value in losses.values())
                model.zero_grad()
                sum(losses.values()).backward()
                grads = [p.grad for p in model.parameters() if p.grad is not None]
                assert all(grad.isfinite().all() and grad.dtype == torch.float32 for grad in grads)
            return
        mixed = model([{"image": make_image(0), "vocabulary": VOCABULARY}])[0]
        referring = model([{"image": make_image(0), "expressions": ["the dog"]}])[0]
    plain = model([{"image": make_image(0), "vocabulary": VOCABULARY}])[0]
    assert mixed["sem_seg"].isfinite().all()
    difference = (mixed["sem_seg"] - plain["sem_seg"]).abs().mean()
    assert 0 < difference < 0.1 * plain["sem_seg"].abs().mean()
    assert len(referring["referring"][0]) == 1


@pytest.mark.parametrize("height", [33, 64])
@pytest.mark.parametrize("width", [33, 90])
def test_any_size_of_image(model, height, width):
    batch = [
        {"image": make_image(0, height, width), "vocabulary": VOCABULARY},
        {"image": make_image(1, 48, 48), "vocabulary": VOCABULARY},
    ]
    results = model(batch)
    assert [tuple(result["sem_seg"].shape[1:]) for result in results] == [(height, width), (48, 48)]


def test_bytes_and_floats_are_the_same_image(model):
    image = make_image(0).byte()
    results = model(
        [{"image": pixels, "vocabulary": VOCABULARY} for pixels in (image, image.float())]
    )
    assert_same_results(results[0], results[1])


def test_a_batch_of_two_tasks_is_refused(model):
    with pytest.raises(ValueError, match=r"must have one task.*(parts|detection)"):
        model.train()([training_input("detection"), training_input("parts")])


def test_an_unknown_task_is_named(model):
    with pytest.raises(
        ValueError, match='unknown task "depth"; known are detection, semantic, parts'
    ):
        model.train()([training_input("depth")])


@pytest.mark.parametrize("key", ["task", "instances"])
def test_missing_key_of_a_training_input_is_named(model, key):
    task = "referring" if key == "task" else "detection"
    batch = [{k: value for k, value in training_input(task).items() if k != key}]
    with pytest.raises(ValueError, match=key):
        model.train()(batch)


def test_missing_field_of_instances_is_named(model):
    item = training_input("detection")
    item["instances"].remove("gt_masks")
    with pytest.raises(ValueError, match="gt_masks"):
        model.train()([item])


def test_inputs_without_task_are_of_the_task_detection(model):
    item = training_input("detection")
    torch.manual_seed(3)
    expected = model.train()([item])
    del item["task"]
    torch.manual_seed(3)
    losses = model([item])
    assert losses.keys() == expected.keys()
    assert all(torch.equal(losses[name], expected[name]) for name in losses)


def test_polygons_are_masks_too(model):
    instances = make_instances([0, 1])
    polygons, masks = [], torch.zeros(2, 64, 96, dtype=torch.bool)
    for i, box in enumerate(instances.gt_boxes.tensor.int().tolist()):
        left, top, right, bottom = box
        masks[i, top:bottom, left:right] = True
        polygons.append([np.array([left, top, right, top, right, bottom, left, bottom], float)])
    instances.gt_masks = BitMasks(masks)
    item = training_input("detection")
    losses = []
    for gt_masks in (BitMasks(masks), PolygonMasks(polygons)):
        instances.gt_masks = gt_masks
        torch.manual_seed(3)
        losses.append(model.train()([{**item, "instances": instances}]))
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, atol=1e-4, rtol=1e-4)


def test_dataset_mapper_of_detectron2_works(model, tiny_cfg, tmp_path):
    """Its inputs have neither task nor vocabulary: the classes are those of the training set."""
    assert model.input_config.train_dataset == tiny_cfg.DATASETS.TRAIN[0]
    rgb = make_image(0).byte().permute(1, 2, 0).numpy()
    Image.fromarray(rgb).save(tmp_path / "image.png")
    annotation = {
        "bbox": [8, 8, 32, 24],
        "bbox_mode": BoxMode.XYWH_ABS,
        "segmentation": [[8, 8, 40, 8, 40, 32, 8, 32]],
        "category_id": 1,
        "iscrowd": 0,
    }
    record = {"file_name": str(tmp_path / "image.png"), "height": 64, "width": 96}
    item = DatasetMapper(tiny_cfg, is_train=True)({**record, "annotations": [annotation]})
    assert isinstance(item["instances"].gt_masks, PolygonMasks)
    assert "task" not in item and "vocabulary" not in item
    losses = model.train()([item])
    assert all(value.isfinite() for value in losses.values()) and sum(losses.values()) > 0


def test_default_vocabulary_is_that_of_the_test_set(model, tiny_cfg):
    from hipie.data.datasets.picturebook import picturebook_vocabulary

    plain = model([{"image": make_image(0)}])[0]
    named = model([{"image": make_image(0), "vocabulary": picturebook_vocabulary()}])[0]
    assert_same_results(plain, named)


def test_an_input_without_any_vocabulary_is_refused(model):
    model.input_config = replace(model.input_config, test_dataset="")
    with pytest.raises(ValueError, match=r"neither `vocabulary` nor `expressions`"):
        model([{"image": make_image(0)}])


def test_default_predictor_of_detectron2_works(model, tiny_cfg, tmp_path):
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    tiny_cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    predictor = DefaultPredictor(tiny_cfg)
    rgb = make_image(0, 100, 120).byte().permute(1, 2, 0).numpy()
    result = predictor(np.ascontiguousarray(rgb[:, :, ::-1]))
    classes = predictor.metadata.stuff_classes
    assert result["sem_seg"].shape == (len(classes), 100, 120)
    assert result["instances"].image_size == (100, 120)
    resized = predictor.aug.get_transform(rgb).apply_image(rgb)
    image = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))
    assert_same_results(result, model([{"image": image, "height": 100, "width": 120}])[0])


def test_too_large_image_is_refused_with_a_size_that_fits(model, monkeypatch):
    monkeypatch.setattr(memory_check, "free_bytes", lambda device: 10**6)
    with pytest.raises(
        memory_check.ImageTooLargeError, match=r"64 x 96 pixels and 4 classes .* fit"
    ):
        memory_check.check_memory(model, [{"image": make_image(0), "vocabulary": VOCABULARY}])


@pytest.mark.parametrize(("height", "width"), [(5, 7), (8, 40), (33, 64)])
def test_images_smaller_than_a_window(tiny_published, height, width):
    (result,) = tiny_published([{"image": make_image(0, height, width), "vocabulary": VOCABULARY}])
    assert result["sem_seg"].shape == (4, height, width)
    assert result["sem_seg"].isfinite().all()


@pytest.mark.parametrize("option", ["MODEL.HIPIE.THINGS.EARLY_FUSION", "MODEL.HIPIE.STUFF.ENABLED"])
def test_models_without_early_fusion_or_stuff_decoder(tiny_cfg, option):
    tiny_cfg.merge_from_list([option, False])
    model = randomise_zero_heads(build_model(tiny_cfg))
    for task in ("detection", "parts", "referring"):
        losses = model.train()([training_input(task)])
        assert all(value.isfinite() for value in losses.values())
        sum(losses.values()).backward()
    (result,) = model.eval()([{"image": make_image(0), "vocabulary": VOCABULARY}])
    assert result["sem_seg"].shape == (4, 64, 96)
    assert result["sem_seg"].sum(0).isfinite().all()
    names = dict(model.named_parameters())
    assert any(name.startswith("things.fusion.") for name in names) == (
        option != "MODEL.HIPIE.THINGS.EARLY_FUSION"
    )
    assert any(name.startswith("stuff.") for name in names) == (
        option != "MODEL.HIPIE.STUFF.ENABLED"
    )


def test_without_a_stuff_decoder_thing_queries_predict_stuff(tiny_cfg):
    tiny_cfg.MODEL.HIPIE.STUFF.ENABLED = False
    model = randomise_zero_heads(build_model(tiny_cfg)).eval()
    only_stuff = Vocabulary.from_names(stuff=["grass", "open sky"])
    (result,) = model([{"image": make_image(0), "vocabulary": VOCABULARY}])
    (other,) = model([{"image": make_image(0), "vocabulary": only_stuff}])
    assert (result["sem_seg"].std((1, 2)) > 0).all()
    assert (other["sem_seg"].std((1, 2)) > 0).all()
    with pytest.raises(ValueError, match="ENABLED"):
        model.predict_raw([{"image": make_image(0), "vocabulary": VOCABULARY}])
