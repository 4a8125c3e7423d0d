"""The meta-architecture as a whole, at its smallest: what comes out must not depend on company."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances

from hipie import memory_check as memory
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

ROOT = Path(__file__).parents[3]
WORDS = Vocabulary.from_names(things=["red car", "dog"], stuff=["grass", "open sky"])


def picture(seed: int, height: int = 64, width: int = 96) -> torch.Tensor:
    """Noise over a gradient, [3, height, width], 0..255."""
    generator = torch.Generator().manual_seed(seed)
    across = torch.linspace(0, 160, width).expand(3, height, width)
    return across + 90 * torch.rand(3, height, width, generator=generator)


def objects(labels: list[int], height: int = 64, width: int = 96) -> Instances:
    """Rectangles of the given classes, one beside the other."""
    masks = torch.zeros(len(labels), height, width, dtype=torch.bool)
    for i in range(len(labels)):
        masks[i, 8 + 4 * i : 40, 12 * i : 12 * i + 20] = True
    boxes = [[12 * i, 8 + 4 * i, 12 * i + 20, 40] for i in range(len(labels))]
    found = Instances((height, width))
    found.gt_classes = torch.tensor(labels, dtype=torch.int64)
    found.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.gt_masks = BitMasks(masks)
    return found


def item(task: str, seed: int = 0, labels: list[int] | None = None, **kept) -> dict:
    """One training dict of a task."""
    labels = [0, 1, 2] if labels is None else labels
    if task == "referring":
        words = {"expressions": ["the red car", "a dog on the left"]}
        labels = [label for label in labels if label < 2]
    else:
        words = {"vocabulary": WORDS}
    return {
        "image": picture(seed),
        "task": task,
        "instances": objects(labels),
        "height": 64,
        "width": 96,
        **words,
        **kept,
    }


def wake(model: torch.nn.Module) -> torch.nn.Module:
    """Make heads that start at zero random, so that everything has an effect."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ("box" in name and "layers.2" in name) or "attention_weights" in name:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(0.2 * noise)
    return model


@pytest.fixture
def model(tiny_cfg):
    torch.manual_seed(0)
    return wake(build_model(tiny_cfg)).eval()


def close(one, other, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def same_instances(one: Instances, other: Instances) -> None:
    """Equal up to rounding; rows are compared in order, so scores must not be tied."""
    close(one.scores, other.scores)
    assert torch.equal(one.pred_classes, other.pred_classes)
    close(one.pred_boxes.tensor, other.pred_boxes.tensor, 1e-2)
    assert (one.pred_masks != other.pred_masks).float().mean() < 1e-4


def same_results(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    if "referring" in one:
        for mine, yours in zip(one["referring"], other["referring"], strict=True):
            same_instances(mine, yours)
        return
    same_instances(one["instances"], other["instances"])
    close(one["sem_seg"], other["sem_seg"])
    assert (one["panoptic_seg"][0] != other["panoptic_seg"][0]).float().mean() < 1e-3
    assert [s["category_id"] for s in one["panoptic_seg"][1]] == [
        s["category_id"] for s in other["panoptic_seg"][1]
    ]


def test_results_have_detectron2s_shapes(model):
    (found,) = model([{"image": picture(0), "vocabulary": WORDS, "height": 50, "width": 70}])
    assert found.keys() == {"instances", "sem_seg", "panoptic_seg"}
    assert found["sem_seg"].shape == (4, 50, 70)
    assert found["instances"].image_size == (50, 70)
    assert found["instances"].pred_masks.shape[1:] == (50, 70)
    assert set(found["instances"].pred_classes.tolist()) <= {0, 1}
    segments, described = found["panoptic_seg"]
    assert segments.shape == (50, 70)
    assert set(segments.unique().tolist()) - {0} == {one["id"] for one in described}
    assert all(one["isthing"] == (one["category_id"] < 2) for one in described)


def test_without_a_size_results_are_as_large_as_the_image(model):
    (found,) = model([{"image": picture(0), "vocabulary": WORDS}])
    assert found["sem_seg"].shape == (4, 64, 96)


def test_a_batch_equals_its_images_one_by_one(model):
    batch = [{"image": picture(seed), "vocabulary": WORDS} for seed in range(3)]
    together = model(batch)
    for one, found in zip(batch, together, strict=True):
        same_results(model([one])[0], found)


def test_expressions_in_a_batch_equal_expressions_one_by_one(model):
    expressions = ["the red car", "a small dog on the left of the house", "it"]
    batch = [{"image": picture(seed), "expressions": expressions} for seed in range(2)]
    together = model(batch)
    for one, found in zip(batch, together, strict=True):
        for i, expression in enumerate(expressions):
            (alone,) = model([{**one, "expressions": [expression]}])[0]["referring"]
            same_instances(alone, found["referring"][i])


def test_more_expressions_than_fit_at_once(model):
    expressions = [f"the {word} one" for word in "abcdefghijklmnopqrs"]
    (found,) = model([{"image": picture(0), "expressions": expressions}])
    assert len(found["referring"]) == 19
    assert all(len(one) == 1 for one in found["referring"])
    (alone,) = model([{"image": picture(0), "expressions": expressions[-1:]}])[0]["referring"]
    same_instances(alone, found["referring"][-1])


def test_words_and_expressions_may_mix(model):
    words = {"image": picture(0), "vocabulary": WORDS}
    said = {"image": picture(1), "expressions": ["the red car", "a dog"]}
    found = model([said, words, said])
    same_results(found[0], model([said])[0])
    same_results(found[1], model([words])[0])
    same_results(found[2], found[0])


def test_classes_may_change_places_over_fixed_words(model, monkeypatch):
    """The caption stays; which class owns which tokens is permuted."""
    order = [2, 0, 3, 1]
    plain = model([{"image": picture(0), "vocabulary": WORDS}])[0]
    read = model.text_encoder.forward

    def permuted(captions):
        text = read(captions)
        spans = tuple(tuple(one[i] for i in order) for one in text.token_spans)
        return replace(text, token_spans=spans)

    from hipie.modeling.meta_arch import hipie as universal

    caption = universal.vocabulary_caption(WORDS)
    moved = Vocabulary([WORDS.classes[i] for i in order])
    monkeypatch.setattr(universal, "vocabulary_caption", lambda vocabulary: caption)
    monkeypatch.setattr(model.text_encoder, "forward", permuted)
    found = model([{"image": picture(0), "vocabulary": moved}])[0]
    close(found["sem_seg"], plain["sem_seg"][order], 1e-5)
    place = torch.tensor([order.index(i) for i in range(4)])
    close(found["instances"].scores, plain["instances"].scores, 1e-6)
    assert torch.equal(found["instances"].pred_classes, place[plain["instances"].pred_classes])
    close(found["instances"].pred_boxes.tensor, plain["instances"].pred_boxes.tensor, 1e-4)
    assert torch.equal(found["instances"].pred_masks, plain["instances"].pred_masks)
    assert sorted(one["category_id"] for one in found["panoptic_seg"][1]) == sorted(
        int(place[one["category_id"]]) for one in plain["panoptic_seg"][1]
    )


@pytest.mark.parametrize("task", ["detection", "parts", "referring"])
def test_losses_are_finite_and_teach(model, task):
    model.train()
    losses = model([item(task, 0), item(task, 1, [1])])
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
    for batch in ([item(task, 0, [])], [item(task, 0, []), item(task, 1, [0])]):
        losses = model(batch)
        assert all(value.isfinite() for value in losses.values())
        model.zero_grad()
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_only_stuff_teaches_boxes_to_no_thing(model):
    model.train()
    losses = model([item("detection", 0, [2, 3])])
    assert losses["loss_bbox"].item() == losses["loss_mask"].item() == 0.0
    assert losses["loss_mask_maskdino"] > 0


def test_the_same_seed_gives_the_same_losses(model):
    model.train()
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(model([item("detection")]))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_a_part_counts_for_its_whole_only_if_asked(model):
    parts = Vocabulary([VocabularyClass("dog head", "part", whole="dog")])
    batch = [item("parts", 0, [0], vocabulary=parts)]
    seen = []
    inner = model.stuff_criterion.forward
    model.stuff_criterion.forward = lambda output, targets, **rest: (
        seen.append(targets[0].positive_map.sum().item()),
        inner(output, targets, **rest),
    )[1]
    model.train()
    for spread in (False, True):
        model.spread_whole_names = spread
        model(batch)
    assert seen[0] <= seen[1]


@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_autocast(model, training):
    with torch.autocast("cpu", torch.bfloat16):
        if training:
            for task in ("detection", "parts", "referring"):
                losses = model.train()([item(task)])
                assert all(value.isfinite() for value in losses.values())
                model.zero_grad()
                sum(losses.values()).backward()
                grads = [p.grad for p in model.parameters() if p.grad is not None]
                assert all(grad.isfinite().all() and grad.dtype == torch.float32 for grad in grads)
            return
        mixed = model([{"image": picture(0), "vocabulary": WORDS}])[0]
        said = model([{"image": picture(0), "expressions": ["the dog"]}])[0]
    plain = model([{"image": picture(0), "vocabulary": WORDS}])[0]
    assert mixed["sem_seg"].isfinite().all()
    difference = (mixed["sem_seg"] - plain["sem_seg"]).abs().mean()
    assert 0 < difference < 0.1 * plain["sem_seg"].abs().mean()
    assert len(said["referring"][0]) == 1


@pytest.mark.parametrize("height", [33, 64])
@pytest.mark.parametrize("width", [33, 90])
def test_any_size_of_image(model, height, width):
    batch = [
        {"image": picture(0, height, width), "vocabulary": WORDS},
        {"image": picture(1, 48, 48), "vocabulary": WORDS},
    ]
    found = model(batch)
    assert [tuple(one["sem_seg"].shape[1:]) for one in found] == [(height, width), (48, 48)]


def test_bytes_and_floats_are_the_same_image(model):
    image = picture(0).byte()
    found = model([{"image": one, "vocabulary": WORDS} for one in (image, image.float())])
    same_results(found[0], found[1])


def test_a_batch_of_two_tasks_is_refused(model):
    with pytest.raises(ValueError, match=r"must be of one task.*(parts|detection)"):
        model.train()([item("detection"), item("parts")])


def test_an_unknown_task_is_named(model):
    with pytest.raises(ValueError, match='unknown task "depth"; known are detection, parts'):
        model.train()([item("depth")])


@pytest.mark.parametrize("lacking", ["task", "vocabulary", "instances"])
def test_what_a_training_dict_lacks_is_named(model, lacking):
    batch = [{key: value for key, value in item("detection").items() if key != lacking}]
    with pytest.raises((KeyError, ValueError), match=lacking):
        model.train()(batch)


def test_without_words_the_test_sets_classes_are_used(model, tiny_cfg):
    from hipie.data.datasets.picturebook import picturebook_vocabulary

    plain = model([{"image": picture(0)}])[0]
    named = model([{"image": picture(0), "vocabulary": picturebook_vocabulary()}])[0]
    same_results(plain, named)


def test_without_words_and_test_set_there_is_an_expression(model):
    model.default_dataset = ""
    with pytest.raises(ValueError, match=r"neither `vocabulary` nor `expressions`"):
        model([{"image": picture(0)}])


def test_detectron2s_predictor_works_unchanged(model, tiny_cfg, tmp_path):
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    tiny_cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    predictor = DefaultPredictor(tiny_cfg)
    rgb = picture(0, 100, 120).byte().permute(1, 2, 0).numpy()
    found = predictor(np.ascontiguousarray(rgb[:, :, ::-1]))
    classes = predictor.metadata.stuff_classes
    assert found["sem_seg"].shape == (len(classes), 100, 120)
    assert found["instances"].image_size == (100, 120)
    resized = predictor.aug.get_transform(rgb).apply_image(rgb)
    image = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))
    same_results(found, model([{"image": image, "height": 100, "width": 120}])[0])


def test_gradients_of_two_processes_equal_those_of_one(tmp_path, tiny_options):
    program = ROOT / "tests/modeling/meta_arch/distributed_gradients.py"
    rendezvous = tmp_path / "rendezvous"
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                program,
                str(rank),
                rendezvous,
                tmp_path / f"{rank}.pt",
                *tiny_options,
            ],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for task, single in results[0]["single"].items():
        distributed = [result["distributed"][task] for result in results]
        assert single.keys() == distributed[0].keys() == distributed[1].keys()
        largest = max(gradient.abs().max() for gradient in single.values())
        assert largest > 1e-3
        for name, gradient in single.items():
            for of_process in distributed:
                error = (of_process[name] - gradient).abs().max()
                assert error < 1e-5 * max(1.0, float(largest)), (task, name, float(error))


def test_an_image_that_does_not_fit_is_refused_with_the_size_that_would(model, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6)
    with pytest.raises(memory.ImageTooLargeError, match=r"64 x 96 pixels and 4 classes .* fit"):
        model([{"image": picture(0), "vocabulary": WORDS}])


@pytest.mark.parametrize(("height", "width"), [(5, 7), (8, 40), (33, 64)])
def test_images_smaller_than_a_window(tiny_published, height, width):
    (found,) = tiny_published([{"image": picture(0, height, width), "vocabulary": WORDS}])
    assert found["sem_seg"].shape == (4, height, width)
    assert found["sem_seg"].isfinite().all()


@pytest.mark.parametrize("option", ["MODEL.HIPIE.THINGS.EARLY_FUSION", "MODEL.HIPIE.STUFF.ENABLED"])
def test_a_model_without_one_of_its_ideas(tiny_cfg, option):
    tiny_cfg.merge_from_list([option, False])
    model = wake(build_model(tiny_cfg))
    for task in ("detection", "parts", "referring"):
        losses = model.train()([item(task)])
        assert all(value.isfinite() for value in losses.values())
        sum(losses.values()).backward()
    (found,) = model.eval()([{"image": picture(0), "vocabulary": WORDS}])
    assert found["sem_seg"].shape == (4, 64, 96)
    assert found["sem_seg"].sum(0).isfinite().all()
    names = dict(model.named_parameters())
    assert any(name.startswith("things.fusion.") for name in names) == (
        option != "MODEL.HIPIE.THINGS.EARLY_FUSION"
    )
    assert any(name.startswith("stuff.") for name in names) == (
        option != "MODEL.HIPIE.STUFF.ENABLED"
    )


def test_without_a_stuff_decoder_things_queries_stand_for_stuff(tiny_cfg):
    tiny_cfg.MODEL.HIPIE.STUFF.ENABLED = False
    model = wake(build_model(tiny_cfg)).eval()
    only_stuff = Vocabulary.from_names(stuff=["grass", "open sky"])
    (found,) = model([{"image": picture(0), "vocabulary": WORDS}])
    (other,) = model([{"image": picture(0), "vocabulary": only_stuff}])
    assert (found["sem_seg"].std((1, 2)) > 0).all()
    assert (other["sem_seg"].std((1, 2)) > 0).all()
    with pytest.raises(ValueError, match="ENABLED"):
        model.predict_raw([{"image": picture(0), "vocabulary": WORDS}])
