"""Export of models: the traced function, files of each format, and the program that runs them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hipie import Segmenter, Vocabulary
from hipie.cli.main import main
from hipie.errors import HipieError, InputError, UnsupportedError
from hipie.export.formats import SUFFIXES, description, export_model
from hipie.export.network import OUTPUT_NAMES, ExportedNetwork
from hipie.modeling.postprocessing.nms_topk import class_aware_nms

ROOT = Path(__file__).parents[2]
NANO = "nano/hipie_nano_picturebook.yaml"
IMAGE = ROOT / "hipie/examples/photographs/citrus.jpg"
THINGS, STUFF = ["house", "car", "tree", "person"], ["grass", "sky", "road"]
VOCABULARY = Vocabulary.from_names(things=THINGS, stuff=STUFF)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_config(NANO, device="cpu")


@pytest.fixture(scope="module")
def network(segmenter: Segmenter) -> ExportedNetwork:
    return ExportedNetwork(segmenter.model, VOCABULARY).eval()


@pytest.fixture(scope="module")
def runner() -> Any:
    pytest.importorskip("onnxruntime")
    spec = importlib.util.spec_from_file_location("run_onnx", ROOT / "examples/run_onnx.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class NetworkSession:
    """Has the methods of an onnxruntime session that the runner calls; runs PyTorch."""

    def __init__(self, network: ExportedNetwork, segmenter: Segmenter) -> None:
        self._network = network
        text = json.dumps(description(segmenter.model, segmenter.cfg, VOCABULARY))
        self._meta = SimpleNamespace(custom_metadata_map={"hipie": text})

    def get_modelmeta(self) -> Any:
        return self._meta

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        tensors = [torch.from_numpy(inputs[name]) for name in ("image", "size")]
        with torch.no_grad():
            return [output.numpy() for output in self._network(*tensors)]


def assert_same_segments(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["image"] == expected["image"]
    assert [list(s) for s in found["segments"]] == [list(s) for s in expected["segments"]]
    assert expected["segments"]
    for one, other in zip(found["segments"], expected["segments"], strict=True):
        assert {one[k] == other[k] for k in ("id", "category", "category_id", "kind")} == {True}
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
        assert one["area"] == pytest.approx(other["area"], rel=1e-2)
        assert np.abs(np.subtract(one["bbox"], other["bbox"])).max() <= 2


def test_traced_function_gives_the_models_predictions(
    segmenter: Segmenter, network: ExportedNetwork
) -> None:
    inputs = segmenter.prepare(IMAGE).inputs
    height, width = inputs["image"].shape[1:]
    canvas = torch.zeros(3, -(-height // 32) * 32, -(-width // 32) * 32)
    canvas[:, :height, :width] = inputs["image"]
    with torch.no_grad():
        boxes, scores, competing, masks = network(canvas, torch.tensor([height, width]))
    raw = segmenter.model.predict_raw([{**inputs, "vocabulary": VOCABULARY}])
    torch.testing.assert_close(boxes, raw.things.boxes[0], atol=1e-4, rtol=1e-4)
    expected = torch.cat([raw.things.mask_logits[0], raw.stuff.mask_logits[0]])
    torch.testing.assert_close(masks, expected, atol=1e-2, rtol=1e-3)
    assert scores.shape == (len(boxes), len(VOCABULARY))
    assert competing.shape == (len(masks), len(VOCABULARY))
    assert segmenter.model.text_encoder is not None  # the model itself is unchanged


def test_runner_gives_what_the_command_gives(
    segmenter: Segmenter, network: ExportedNetwork, runner: Any
) -> None:
    session = NetworkSession(network, segmenter)
    image = np.array(Image.open(IMAGE).convert("RGB"))
    found = runner.to_json(session, str(IMAGE), image.shape[:2], runner.segment(session, image))
    expected = segmenter.segment(IMAGE, THINGS, STUFF).to_dict()
    expected["image"]["file"] = str(IMAGE)
    assert_same_segments(found, expected)


def test_runner_resizes_and_suppresses_as_pytorch(runner: Any) -> None:
    generator = np.random.default_rng(0)
    for source, size in ((5, 20), (20, 7), (1, 4), (13, 13)):
        line = generator.normal(size=source).astype(np.float32)
        expected = F.interpolate(torch.from_numpy(line)[None, None], size=size, mode="linear")[0, 0]
        np.testing.assert_allclose(runner.resize_weights(source, size) @ line, expected, atol=1e-5)
    boxes = generator.uniform(0.2, 0.8, (60, 4)).astype(np.float32)
    scores = generator.uniform(size=(60, 3)).astype(np.float32)
    expected = class_aware_nms(torch.from_numpy(scores), torch.from_numpy(boxes), 0.4).tolist()
    assert runner.suppress(boxes, scores, 0.4) == expected
    assert len(expected) < 60


def test_what_cannot_be_exported_is_one_sentence(segmenter: Segmenter, tmp_path: Path) -> None:
    model, cfg = segmenter.model, segmenter.cfg
    with pytest.raises(InputError, match='format is "tflite"; it has to be onnx, openvino, torch'):
        export_model(model, cfg, VOCABULARY, tmp_path / "a.onnx", "tflite")
    with pytest.raises(InputError, match=r"a\.pt: files of the format torchexport end in \.pt2"):
        export_model(model, cfg, VOCABULARY, tmp_path / "a.pt", "torchexport")
    with pytest.raises(UnsupportedError, match="Linear cannot be exported; HIPIE can"):
        export_model(torch.nn.Linear(1, 1), cfg, VOCABULARY, tmp_path / "a.pt2", "torchexport")
    reduced = Segmenter.from_config(NANO, device="cpu", precision="bfloat16")
    with pytest.raises(HipieError, match="models are exported in float32"):
        ExportedNetwork(reduced.model, VOCABULARY)
    for arguments, message in (
        (["--things", "car: wheel", "--parts", "car: wheel"], "leave --parts out"),
        ([], "name at least one class with --things or --stuff"),
        (["--things", "car", "--precision", "bfloat16"], "leave --precision out"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["export", "--format", "onnx", "--output", str(tmp_path / "a.onnx"), *arguments])
        assert message in str(stop.value.code) or stop.value.code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("format_", SUFFIXES)
def test_files_give_the_models_predictions_at_other_sizes(
    format_: str, segmenter: Segmenter, network: ExportedNetwork, tmp_path: Path
) -> None:
    if format_ != "torchexport":
        pytest.importorskip("onnxruntime")
    if format_ == "openvino":
        pytest.importorskip("openvino")
    file = tmp_path / f"model{SUFFIXES[format_]}"
    command = ["export", "--format", format_, "--output", str(file)]
    command += ["--things", ";".join(THINGS), "--stuff", ";".join(STUFF)]
    assert main(command) == 0
    for height, width in ((256, 320), (384, 288)):
        image = 255 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))
        size = torch.tensor([height - 7, width])
        with torch.no_grad():
            expected = network(image, size)
        for one, other in zip(run_file(format_, file, image, size), expected, strict=True):
            assert one.shape == tuple(other.shape)
            assert np.quantile(np.abs(one - other.numpy()), 0.99) < 1e-2


def run_file(format_: str, file: Path, image: torch.Tensor, size: torch.Tensor) -> list[Any]:
    """Outputs of an exported file, in the order of `OUTPUT_NAMES`."""
    inputs = {"image": image.numpy(), "size": size.numpy()}
    if format_ == "torchexport":
        program = torch.export.load(file)
        return [output.numpy() for output in program.module()(image, size)]
    if format_ == "onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(str(file)).run(list(OUTPUT_NAMES), inputs)
    import openvino

    compiled = openvino.Core().compile_model(str(file), "CPU")
    results = compiled(inputs)
    return [results[name] for name in OUTPUT_NAMES]
