"""Results against plain transformers on the same random weights, read from the same folder.

The other side uses classes of transformers, segment-anything and NumPy only.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from segment_anything import SamPredictor

from hipie.vocabularies import Vocabulary

THINGS, STUFF = ["dog", "car", "house"], ["grass", "sky", "wall"]
VOCABULARY = Vocabulary.from_names(THINGS, STUFF)


def run(segmenter, page, **request):
    """Return the outputs of a model for a page at its own size."""
    image = torch.from_numpy(page.transpose(2, 0, 1).copy())
    item = {"image": image, "height": page.shape[0], "width": page.shape[1], **request}
    return segmenter.model([item])[0]


def load(name: str, processor: str, folder):
    network = getattr(transformers, name).from_pretrained(folder).eval()
    return network, getattr(transformers, processor).from_pretrained(folder)


def segments(output) -> list[tuple[int, float, int]]:
    """(class, score, area) of the segments of a panoptic map."""
    panoptic, infos = output
    return [
        (info["category_id"], info["score"], int((panoptic == info["id"]).sum())) for info in infos
    ]


@torch.no_grad()
def test_clipseg_has_the_probabilities_of_transformers(build, folders, page):
    network, processor = load("CLIPSegForImageSegmentation", "CLIPSegProcessor", folders("clipseg"))
    names = [*THINGS, *STUFF]
    inputs = processor(text=names, images=[page] * len(names), padding=True, return_tensors="pt")
    logits = network(**inputs).logits
    expected = F.interpolate(logits[:, None], size=page.shape[:2], mode="bilinear")[:, 0].sigmoid()
    outputs = run(build("clipseg", "clipseg"), page, vocabulary=VOCABULARY)
    torch.testing.assert_close(outputs["sem_seg"], expected, atol=2e-6, rtol=0)
    panoptic, infos = outputs["panoptic_seg"]
    best, labels = expected.max(0)
    wanted = torch.where(best >= 0.5, labels, -1)
    class_of = torch.tensor([-1, *(info["category_id"] for info in infos)])
    # Rounding decides between probabilities that are equal.
    assert (class_of[panoptic.long()] == wanted).float().mean() > 0.999
    for info in infos:
        mask = panoptic == info["id"]
        score = float(expected[info["category_id"]][mask].mean())
        assert info["score"] == pytest.approx(score, abs=1e-5)
    (instances,) = run(build("clipseg", "clipseg"), page, expressions=["dog"])["referring"]
    assert torch.equal(instances.pred_masks[0], expected[0] >= 0.5)


@torch.no_grad()
def test_sam3_has_the_instances_of_transformers(build, folders, page):
    network, processor = load("Sam3Model", "Sam3Processor", folders("sam3"))
    size = page.shape[:2]
    segmenter = build("sam3", "sam3", "NMS", 1.0)
    predictions = segmenter.model.predict_concepts(page, THINGS, size, threshold=0.001)
    for name, prediction in zip(THINGS, predictions):
        inputs = processor(images=page, text=name, return_tensors="pt")
        outputs = network(**{k: v for k, v in inputs.items() if k != "original_sizes"})
        (expected,) = processor.post_process_instance_segmentation(
            outputs, threshold=0.001, target_sizes=[size]
        )
        assert len(expected["scores"])
        torch.testing.assert_close(prediction.scores, expected["scores"], atol=1e-5, rtol=0)
        torch.testing.assert_close(prediction.boxes, expected["boxes"], atol=1e-3, rtol=0)
        assert prediction.masks.shape == (len(expected["scores"]), *size)
        assert (prediction.masks != expected["masks"].bool()).float().mean() < 1e-4
        (instances,) = run(segmenter, page, expressions=[name])["referring"]
        best = expected["scores"].argmax()
        torch.testing.assert_close(instances.scores[0], expected["scores"][best])
        assert torch.equal(instances.pred_masks[0], prediction.masks[best])
    outputs = run(segmenter, page, vocabulary=VOCABULARY)
    counts = torch.bincount(outputs["instances"].pred_classes, minlength=len(VOCABULARY))
    assert counts.tolist() == [*(len(p.scores) for p in predictions), 0, 0, 0]


@torch.no_grad()
def test_grounded_sam_has_the_boxes_of_transformers_and_the_masks_of_sam(build, folders, page):
    network, processor = load(
        "GroundingDinoForObjectDetection", "GroundingDinoProcessor", folders("grounding-dino")
    )
    size = page.shape[:2]
    names = [*THINGS, *STUFF]
    inputs = processor(images=page, text=[names], return_tensors="pt")
    (expected,) = processor.post_process_grounded_object_detection(
        network(**inputs), inputs["input_ids"], threshold=0.5, target_sizes=[size]
    )
    segmenter = build("grounded_sam", "grounding-dino", "NMS", 1.0)
    boxes, scores, phrases = segmenter.model.detect(page, names, size, 0.5)
    torch.testing.assert_close(boxes, expected["boxes"], atol=1e-3, rtol=0)
    torch.testing.assert_close(scores, expected["scores"], atol=1e-6, rtol=0)
    assert phrases.min() >= 0 and phrases.max() < len(names)
    predictor = SamPredictor(segmenter.model.sam.model)
    predictor.set_image(page)
    found = run(segmenter, page, vocabulary=VOCABULARY)["instances"]
    assert len(found)
    for box, mask in zip(found.pred_boxes.tensor.numpy(), found.pred_masks.numpy()):
        inside = np.clip(box, 0, [size[1], size[0]] * 2)
        masks, _, _ = predictor.predict(box=inside, multimask_output=False)
        assert np.array_equal(mask, masks[0])
    (referred,) = run(segmenter, page, expressions=["the dog"])["referring"]
    inputs = processor(images=page, text="the dog.", return_tensors="pt")
    (best,) = processor.post_process_grounded_object_detection(
        network(**inputs), inputs["input_ids"], threshold=0.0, target_sizes=[size]
    )
    row = best["scores"].argmax()
    torch.testing.assert_close(referred.scores[0], best["scores"][row], atol=1e-6, rtol=0)
    torch.testing.assert_close(referred.pred_boxes.tensor[0], best["boxes"][row], atol=1e-3, rtol=0)


CLOSED = [
    ("mask2former", "Mask2FormerForUniversalSegmentation", "Mask2FormerImageProcessor"),
    ("oneformer", "OneFormerForUniversalSegmentation", "OneFormerProcessor"),
]


@pytest.mark.parametrize(("name", "network", "processor"), CLOSED)
@torch.no_grad()
def test_closed_vocabularies_have_the_segments_of_transformers(
    build, folders, page, name, network, processor
):
    from hipie_peers.random_networks import LABELS

    network, processor = load(network, processor, folders(name))
    size = page.shape[:2]
    threshold = 0.05
    segmenter = build(name, name, "THRESHOLD", threshold, "INSTANCE_THRESHOLD", 0.01)
    things = [label for label in LABELS if label in ("dog", "car", "house")]
    stuff = [label for label in LABELS if label not in things]
    vocabulary = Vocabulary.from_names(things, stuff)
    outputs = run(segmenter, page, vocabulary=vocabulary)

    def raw(task):
        if name == "oneformer":
            return network(**processor(page, [task], return_tensors="pt"))
        return network(**processor(page, return_tensors="pt"))

    images = getattr(processor, "image_processor", processor)
    label_of = [LABELS.index(n) for n in vocabulary.names]
    (panoptic,) = images.post_process_panoptic_segmentation(
        raw("panoptic"),
        threshold=threshold,
        label_ids_to_fuse={LABELS.index(n) for n in stuff},
        target_sizes=[size],
    )
    expected = [
        (s["label_id"], s["score"], int((panoptic["segmentation"] == s["id"]).sum()))
        for s in panoptic["segments_info"]
    ]
    assert expected, "the test needs segments"
    assert [(label_of[k], score, area) for k, score, area in segments(outputs["panoptic_seg"])] == (
        expected
    )
    (semantic,) = images.post_process_semantic_segmentation(
        raw("semantic"), target_sizes=[size], return_segmentation_scores=True
    )
    expected_scores = semantic.segmentation_scores[torch.tensor(label_of)]
    torch.testing.assert_close(outputs["sem_seg"], expected_scores, atol=1e-5, rtol=0)
    if name == "mask2former":
        (result,) = images.post_process_instance_segmentation(
            raw("instance"), threshold=0.01, target_sizes=[size], return_binary_maps=True
        )
        pairs = sorted(
            (round(i["score"], 4), int(m.sum()))
            for i, m in zip(result["segments_info"], result["segmentation"])
        )
        found = run(segmenter, page, vocabulary=Vocabulary.from_names(LABELS))["instances"]
        areas = found.pred_masks.flatten(1).sum(1).tolist()
        assert pairs and sorted(zip([round(s, 4) for s in found.scores.tolist()], areas)) == pairs


@torch.no_grad()
def test_florence2_has_the_polygons_of_transformers(build, folders, page):
    network, processor = load(
        "Florence2ForConditionalGeneration", "Florence2Processor", folders("florence2")
    )
    segmenter = build("florence2", "florence2")
    task = "<REFERRING_EXPRESSION_SEGMENTATION>"
    inputs = processor(images=page, text=f"{task}the dog", return_tensors="pt")
    for beams in (1, 3):
        segmenter = build("florence2", "florence2", "BEAMS", beams)
        result = network.generate(
            **inputs,
            max_new_tokens=16,
            num_beams=beams,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        (text,) = processor.batch_decode(result.sequences, skip_special_tokens=False)
        parsed = processor.post_process_generation(
            text=text, task=task, image_size=(page.shape[1], page.shape[0])
        )[task]
        from PIL import Image, ImageDraw

        canvas = Image.new("1", (page.shape[1], page.shape[0]))
        for polygon in (p for group in parsed["polygons"] for p in group):
            ImageDraw.Draw(canvas).polygon(polygon, fill=1, outline=0)
        (instances,) = run(segmenter, page, expressions=["the dog"])["referring"]
        expected = np.asarray(canvas)
        mask = instances.pred_masks[0].numpy() if len(instances) else np.zeros(page.shape[:2], bool)
        union = (mask | expected).sum()
        assert union == 0 or (mask & expected).sum() / union > 0.9
        assert len(instances) == (mask.sum() > 0)
        if beams == 1:
            chosen = result.sequences[0, 1:]
            steps = torch.stack([s.log_softmax(-1)[0, t] for s, t in zip(result.scores, chosen)])
            finite = steps[torch.isfinite(steps) & (steps != 0)]
            if len(instances):
                assert instances.scores[0] == pytest.approx(float(finite.mean().exp()), abs=1e-6)


def test_polygons_are_rasterized():
    from hipie_peers.florence2 import rasterize

    square, line = [2, 2, 8, 2, 8, 6, 2, 6], [0, 0, 5, 5]
    mask = rasterize([[square], [line]], (10, 12))
    assert mask.sum() == 24 and mask[2:6, 2:8].all()
    assert not rasterize([], (10, 12)).any()
