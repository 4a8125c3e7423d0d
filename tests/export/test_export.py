"""Export of models: the traced function, files of each format, and the program that runs them."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hipie import Segmenter, Vocabulary
from hipie.cli.main import main
from hipie.errors import HipieError, InputError, UnsupportedError
from hipie.export.formats import SUFFIXES, export_model
from hipie.export.network import (
    OUTPUT_NAMES,
    TEXT_SUFFIX,
    ExportedNetwork,
    OpenVocabularyNetwork,
    description,
)
from hipie.export.text_network import text_network
from hipie.export.traceable import ExportRequest
from hipie.modeling.heads.pixel_class_head import PixelClassHead
from hipie.modeling.postprocessing.nms_topk import class_aware_nms
from hipie.modeling.text_encoder.caption import (
    SpecialTokens,
    expression_caption,
    split_into_windows,
    vocabulary_caption,
)
from hipie.modeling.text_encoder.tokenizer import tokenize
from tests.exported_files import NetworkSession, example, require, run_file

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
    return example("run_onnx")


@pytest.fixture(scope="module")
def session(segmenter: Segmenter, network: ExportedNetwork) -> NetworkSession:
    return NetworkSession(network, description(segmenter.model, segmenter.cfg, VOCABULARY))


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


@pytest.mark.parametrize("instances", [False, True])
def test_runner_gives_what_the_command_gives(
    instances: bool, segmenter: Segmenter, session: NetworkSession, runner: Any
) -> None:
    image = np.array(Image.open(IMAGE).convert("RGB"))
    segments = runner.segment(session, image, instances=instances)
    found = runner.to_json(str(IMAGE), image.shape[:2], segments, "run_onnx.py")
    output = "instances" if instances else "panoptic"
    expected = segmenter.segment(IMAGE, THINGS, STUFF, output=output).to_dict()
    expected["image"]["file"] = str(IMAGE)
    assert_same_segments(found, expected)


def test_class_head_of_pixels(segmenter: Segmenter, runner: Any) -> None:
    """With random weights, so that its scores change those of the queries."""
    torch.manual_seed(0)
    model = segmenter.model
    channels = [model.backbone.output_shape()[name].channels for name in model.in_features]
    with pytest.MonkeyPatch.context() as patch:
        without = segmenter.segment(IMAGE, THINGS, STUFF, output="instances").to_dict()
        head = PixelClassHead(channels, model.things.width, model.text_encoder.width).eval()
        head.text_projection.weight.data *= 20  # decided for one class or another
        patch.setattr(model, "pixel_head", head)
        network = ExportedNetwork(model, VOCABULARY).eval()
        session = NetworkSession(network, description(model, segmenter.cfg, VOCABULARY))
        image = np.array(Image.open(IMAGE).convert("RGB"))
        segments = runner.segment(session, image, instances=True)
        found = runner.to_json(str(IMAGE), image.shape[:2], segments, "run_onnx.py")
        expected = segmenter.segment(IMAGE, THINGS, STUFF, output="instances").to_dict()
    expected["image"]["file"] = str(IMAGE)
    assert_same_segments(found, expected)
    assert [one["score"] for one in expected["segments"]] != [
        one["score"] for one in without["segments"]
    ]


def test_given_names_have_the_predictions_of_names_in_the_file(
    segmenter: Segmenter, session: NetworkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_network(segmenter.model.text_encoder)
    encoder = NetworkSession(text.network, text.description)
    opened = []
    monkeypatch.setattr(
        example("onnx_text").onnxruntime,
        "InferenceSession",
        lambda file: opened.append(str(file)) or encoder,
    )
    inputs, classes = example("onnx_text").encode_names(
        "some/model.onnx", ";".join(THINGS), " ; ".join(STUFF)
    )
    assert opened == ["some/model_text.onnx"]
    assert [entry["name"] for entry in classes] == list(VOCABULARY.names)
    assert [entry["kind"] for entry in classes] == [entry.kind for entry in VOCABULARY.classes]
    given = NetworkSession(
        OpenVocabularyNetwork(segmenter.model).eval(),
        description(segmenter.model, segmenter.cfg, None),
    )
    canvas = np.zeros((3, 256, 320), np.float32)
    image = {"image": canvas, "size": np.array([250, 320])}
    expected = session.run(None, image)
    for one, other in zip(given.run(None, {**image, **inputs}), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)
    pixels = np.array(Image.open(IMAGE).convert("RGB"))
    found = example("run_onnx").segment(given, pixels, (inputs, classes))
    expected_segments = example("run_onnx").segment(session, pixels)
    assert found
    for one, other in zip(found, expected_segments, strict=True):
        assert (one["name"], one["kind"]) == (other["name"], other["kind"])
        assert np.mean(one["mask"] == other["mask"]) > 0.999


def test_programs_prepare_texts_as_the_model(segmenter: Segmenter) -> None:
    encoder, texts = segmenter.model.text_encoder, example("onnx_text")
    about = text_network(encoder).description
    names = ["sea (water)", "dining_table", "double  space", *(f"a{i} thing" for i in range(300))]
    caption = vocabulary_caption(Vocabulary.from_names(things=names))
    text, spans = texts.caption_of(names)
    assert (text, tuple(spans)) == (caption.text, caption.spans)
    ids = texts.tokenize(about, text).ids
    expected = encoder([caption])
    assert ids == expected.input_ids[0].tolist()
    full_stop = encoder.tokenizer.convert_tokens_to_ids(".")
    windows = texts.windows_of(ids, encoder.window, full_stop)
    markers = SpecialTokens(ids[0], ids[-1], 0, full_stop)
    split = split_into_windows(ids, markers, encoder.window)
    assert windows == [list(window.ids) for window in split]
    assert len(windows) > 1
    for text in ("the Red car, left-of the (tree)!", "word " * 40):
        about |= {"cleaned": True, "window": 22}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenized = tokenize(encoder.tokenizer, expression_caption(text), 22)
        assert texts.expression_ids(about, text).tolist() == [list(tokenized.ids)]


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
    request = ExportRequest(VOCABULARY)
    with pytest.raises(InputError, match='format is "tflite"; it has to be onnx, openvino, torch'):
        export_model(model, cfg, request, tmp_path / "a.onnx", "tflite")
    with pytest.raises(InputError, match=r"a\.pt: files of the format torchexport end in \.pt2"):
        export_model(model, cfg, request, tmp_path / "a.pt", "torchexport")
    with pytest.raises(UnsupportedError, match=r"Linear cannot be exported; GRSer, HIPIE, .* can"):
        export_model(torch.nn.Linear(1, 1), cfg, request, tmp_path / "a.pt2", "torchexport")
    with pytest.raises(InputError, match="HIPIE is exported for one image"):
        export_model(model, cfg, ExportRequest(None, 2), tmp_path / "a.pt2", "torchexport")
    reduced = Segmenter.from_config(NANO, device="cpu", precision="bfloat16")
    with pytest.raises(HipieError, match="models are exported in float32"):
        ExportedNetwork(reduced.model, VOCABULARY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.stuff, "fusion", torch.nn.Identity())
        with pytest.raises(UnsupportedError, match=r"with MODEL\.HIPIE\.STUFF\.EARLY_FUSION are n"):
            ExportedNetwork(model, VOCABULARY)
    compiled = copy.deepcopy(model)
    compiled.is_compiled = True
    with pytest.raises(UnsupportedError, match="without compile=True"):
        ExportedNetwork(compiled, VOCABULARY)
    for arguments, message in (
        (["--things", "car: wheel", "--parts", "car: wheel"], "leave --parts out"),
        ([], "name at least one class with --things or --stuff, or --open-vocabulary"),
        (["--things", "car", "--open-vocabulary"], "leave --things and --stuff out"),
        (["--num-images", "0", "--things", "car"], "0 is not a number from 1 to 64"),
        (["--things", "car", "--precision", "bfloat16"], "leave --precision and --compile out"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["export", "--format", "onnx", "--output", str(tmp_path / "a.onnx"), *arguments])
        assert message in str(stop.value.code) or stop.value.code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("format_", SUFFIXES)
@pytest.mark.parametrize("names", ["in the file", "given"])
def test_files_give_the_models_predictions_at_other_sizes(
    names: str, format_: str, segmenter: Segmenter, network: ExportedNetwork, tmp_path: Path
) -> None:
    require(format_)
    file = tmp_path / f"model{SUFFIXES[format_]}"
    command = ["export", "--format", format_, "--output", str(file)]
    text: dict[str, torch.Tensor] = {}
    if names == "given":
        assert main([*command, "--open-vocabulary"]) == 0
        caption = segmenter.model.text_encoder([vocabulary_caption(VOCABULARY)])
        text_file = file.with_stem(f"model{TEXT_SUFFIX}")
        (encoded,) = run_file(format_, text_file, {"ids": caption.input_ids}, ["text"])
        np.testing.assert_allclose(encoded, caption.hidden[0], atol=1e-4)
        text = {"text": torch.from_numpy(np.array(encoded))}
        text |= {"class_tokens": network.class_tokens, "is_thing": network.is_thing}
    else:
        names_ = ["--things", ";".join(THINGS), "--stuff", ";".join(STUFF)]
        assert main([*command, *names_]) == 0
    for height, width in ((256, 320), (384, 288)):
        image = 255 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))
        size = torch.tensor([height - 7, width])
        with torch.no_grad():
            expected = network(image, size)
        inputs = {"image": image, "size": size, **text}
        results = run_file(format_, file, inputs, OUTPUT_NAMES)
        for one, other in zip(results, expected, strict=True):
            assert one.shape == tuple(other.shape)
            assert np.quantile(np.abs(one - other.numpy()), 0.99) < 1e-2
