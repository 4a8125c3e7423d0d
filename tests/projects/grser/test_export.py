"""Export of GRSer: the traced function, the program that runs files, and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grser.export import grser_networks
from hipie import Segmenter, Vocabulary, model_zoo
from hipie.errors import InputError, UnsupportedError
from hipie.export.formats import export_model
from hipie.export.traceable import ExportRequest
from tests.exported_files import NetworkSession, example, require, run_file

SIDE, COUNT = 64, 3
EXPRESSION = "The Red car, left of the tree"


@pytest.fixture(scope="module")
def cfg():
    options = ["INPUT.SQUARE_SIZE", SIDE, "MODEL.DEVICE", "cpu", "MODEL.GRSER.GROUP_SIZE", COUNT]
    return model_zoo.get_config("grser/grser_nano_picturebook.yaml", options)


@pytest.mark.parametrize("settings", [{}, {"kind": "language"}, {"margin": -100.0}])
def test_program_gives_what_the_model_gives(make_model, cfg, settings):
    model = make_model(**settings)
    traceable = grser_networks(model, cfg, ExportRequest())[""]
    session = NetworkSession(traceable.network, traceable.description)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (50, 60 + i, 3), dtype=np.uint8) for i in range(COUNT + 1)]
    found = example("refer_onnx").segment(session, images, EXPRESSION)
    results = Segmenter(model, cfg).refer_group(images, EXPRESSION)
    assert len(found) == len(results) == COUNT + 1
    for one, result in zip(found, results, strict=True):
        (expected,) = result.segments
        assert np.mean(one["mask"] == expected.mask) > 0.999
        assert one["score"] == pytest.approx(expected.score, abs=1e-3)
    assert any(one["mask"].any() for one in found) == ("margin" in settings)


def test_what_cannot_be_exported_is_one_sentence(model, cfg):
    with pytest.raises(InputError, match="leave class names out"):
        grser_networks(model, cfg, ExportRequest(Vocabulary.from_names(things=["car"])))
    other = cfg.clone()
    other.INPUT.SQUARE_SIZE = 0
    with pytest.raises(UnsupportedError, match=r"in float32, with INPUT\.SQUARE_SIZE"):
        grser_networks(model, other, ExportRequest())


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["onnx", "openvino", "torchexport"])
def test_files_give_the_models_predictions(model, cfg, tmp_path, format_):
    require(format_)
    suffix = {"onnx": "onnx", "openvino": "xml", "torchexport": "pt2"}[format_]
    file = tmp_path / f"model.{suffix}"
    assert export_model(model, cfg, ExportRequest(), file, format_) == [file]
    traceable = grser_networks(model, cfg, ExportRequest())[""]
    for length in (5, 9):
        generator = torch.Generator().manual_seed(length)
        inputs = {
            "images": 255 * torch.rand(COUNT, 3, SIDE, SIDE, generator=generator),
            "ids": torch.arange(100, 100 + length)[None],
            "anti_ids": torch.arange(100, 103 + length)[None],
        }
        with torch.no_grad():
            expected = traceable.network(**inputs)
        results = run_file(format_, file, inputs, traceable.output_names)
        for one, other in zip(results, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-3)
