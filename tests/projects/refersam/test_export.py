"""Export of ReferSAM: the traced function, the program that runs files, and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie import Segmenter, Vocabulary, model_zoo
from hipie.errors import InputError, UnsupportedError
from hipie.export.formats import export_model
from hipie.export.traceable import ExportRequest
from refersam.export import refersam_networks
from tests.exported_files import NetworkSession, example, require, run_file

SIDE = 64
EXPRESSION = "the Red car, left-of the tree!"


@pytest.fixture(scope="module")
def segmenter(model):
    options = ["INPUT.SQUARE_SIZE", SIDE, "MODEL.DEVICE", "cpu"]
    return Segmenter(
        model, model_zoo.get_config("refersam/refersam_nano_picturebook.yaml", options)
    )


@pytest.fixture(scope="module")
def traceable(segmenter):
    return refersam_networks(segmenter.model, segmenter.cfg, ExportRequest())[""]


def test_program_gives_what_the_model_gives(segmenter, traceable):
    session = NetworkSession(traceable.network, traceable.description)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    (found,) = example("refer_onnx").segment(session, [pixels], EXPRESSION)
    (expected,) = segmenter.refer(pixels, EXPRESSION).segments
    assert 0 < expected.area < pixels[..., 0].size
    assert np.mean(found["mask"] == expected.mask) > 0.999
    assert found["score"] == pytest.approx(expected.score, abs=1e-3)
    assert (found["name"], found["kind"]) == (expected.label, expected.kind)
    fewest = traceable.description | {"no_target_pixels": 480**2}
    session = NetworkSession(traceable.network, fewest)
    (none,) = example("refer_onnx").segment(session, [pixels], EXPRESSION)
    assert not none["mask"].any()


def test_what_cannot_be_exported_is_one_sentence(segmenter, make_model):
    model, cfg = segmenter.model, segmenter.cfg.clone()
    names = Vocabulary.from_names(things=["car"])
    for request in (ExportRequest(names), ExportRequest(num_images=2)):
        with pytest.raises(InputError, match="leave class names and the number of images out"):
            refersam_networks(model, cfg, request)
    cfg.INPUT.SQUARE_SIZE = 0
    with pytest.raises(UnsupportedError, match=r"in float32, with INPUT\.SQUARE_SIZE"):
        refersam_networks(model, cfg, ExportRequest())


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["onnx", "openvino", "torchexport"])
def test_files_give_the_models_predictions(segmenter, traceable, tmp_path, format_):
    require(format_)
    suffix = {"onnx": "onnx", "openvino": "xml", "torchexport": "pt2"}[format_]
    file = tmp_path / f"model.{suffix}"
    request = ExportRequest()
    assert export_model(segmenter.model, segmenter.cfg, request, file, format_) == [file]
    for length in (5, 9):
        inputs = {
            "image": 255 * torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)),
            "ids": torch.arange(100, 100 + length)[None],
        }
        with torch.no_grad():
            expected = traceable.network(**inputs).numpy()
        (logits,) = run_file(format_, file, inputs, traceable.output_names)
        np.testing.assert_allclose(logits, expected, atol=1e-3 * np.abs(expected).max())
        assert np.mean((logits > 0) == (expected > 0)) > 0.999
