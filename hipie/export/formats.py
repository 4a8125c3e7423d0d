"""Files of exported models, with what a program needs to prepare images and read predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch.export import Dim

from hipie import __version__
from hipie.atomic_file import replaced_file
from hipie.errors import InputError, MissingPackageError, UnsupportedError
from hipie.export.network import OUTPUT_NAMES, ExportedNetwork
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.hipie import HIPIE
from hipie.vocabularies.vocabulary import Vocabulary

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torchexport": ".pt2"}
# Entry of a file's metadata; see `description`.
METADATA = "hipie"
ONNX_OPSET = 18
# Smallest and largest sides of a canvas, in pixels.
MIN_SIDE, MAX_SIDE = 192, 2048


def export_model(
    model: SegmentationModel, cfg: CfgNode, vocabulary: Vocabulary, file: Path, format_: str
) -> None:
    """Write a model with its class names into one file (for OpenVINO two, .xml and .bin).

    The function that is exported, its inputs and outputs are those of `ExportedNetwork`; height and
    width are dynamic.

    Args:
        model: a HIPIE in float32, on the CPU.
        cfg: its configuration.
        vocabulary: the classes.
        file: with the suffix of the format; replaced if it exists.
        format_: a key of `SUFFIXES`. Files of "torchexport" are read by `torch.export.load` after
            `import hipie.ops`, whose operator they call.

    Raises:
        InputError: for another format or suffix.
        UnsupportedError: for an architecture that cannot be exported.
        MissingPackageError: naming the package that a format needs.
    """
    if format_ not in SUFFIXES:
        raise InputError(f'the format is "{format_}"; it has to be {", ".join(SUFFIXES)}')
    if file.suffix != SUFFIXES[format_]:
        raise InputError(f"{file}: files of the format {format_} end in {SUFFIXES[format_]}")
    _require_packages(format_)
    if not isinstance(model, HIPIE):
        raise UnsupportedError(f"{type(model).__name__} cannot be exported; HIPIE can")
    network = ExportedNetwork(model, vocabulary).eval()
    metadata = json.dumps(description(model, cfg, vocabulary), ensure_ascii=False)
    step = model.input_config.divisibility(training=False)
    if format_ == "torchexport":
        with replaced_file(file) as temporary, temporary.open("wb") as stream:
            torch.export.save(_trace(network, step), stream, extra_files={METADATA: metadata})
    elif format_ == "onnx":
        with replaced_file(file) as temporary:
            _write_onnx(network, step, metadata, temporary)
    else:
        _write_openvino(network, step, metadata, file)


def description(model: HIPIE, cfg: CfgNode, vocabulary: Vocabulary) -> dict[str, Any]:
    """Describe preparation and postprocessing, for programs without this package.

    Returns:
        `classes` (name and kind, in the order of the score columns); `min_size`, `max_size`,
        `format` ("RGB" or "BGR") and `divisibility` of the canvas; the thresholds `nms`,
        `object_mask` and `overlap`; and `version`.
    """
    settings = model.settings
    return {
        "classes": [{"name": entry.name, "kind": entry.kind} for entry in vocabulary.classes],
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "format": cfg.INPUT.FORMAT,
        "divisibility": model.input_config.divisibility(training=False),
        "nms": settings.nms_threshold,
        "object_mask": settings.object_mask_threshold,
        "overlap": settings.overlap_threshold,
        "version": __version__,
    }


def _example(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = (side // step * step for side in (256 + step, 320 + step))
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) * 255
    return image, torch.tensor([height - 3, width - 5])


def _dynamic_shapes(step: int) -> dict[str, Any]:
    rows = Dim("rows", min=-(-MIN_SIDE // step), max=MAX_SIDE // step)
    columns = Dim("columns", min=-(-MIN_SIDE // step), max=MAX_SIDE // step)
    return {"image": {1: step * rows, 2: step * columns}, "size": None}


@contextmanager
def _traceable() -> Iterator[None]:
    """Let attention run as plain operators instead of PyTorch's fused one for inference."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _trace(network: ExportedNetwork, step: int) -> torch.export.ExportedProgram:
    with _traceable():
        return torch.export.export(
            network, _example(step), dynamic_shapes=_dynamic_shapes(step), strict=False
        )


def _write_onnx(network: ExportedNetwork, step: int, metadata: str, file: Path) -> None:
    import onnx

    with _traceable():
        program = torch.onnx.export(
            network,
            _example(step),
            dynamo=True,
            input_names=["image", "size"],
            output_names=list(OUTPUT_NAMES),
            dynamic_shapes=_dynamic_shapes(step),
            opset_version=ONNX_OPSET,
            verbose=False,
        )
    assert program is not None  # without a file name
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, metadata
    onnx.save(proto, str(file))


def _write_openvino(network: ExportedNetwork, step: int, metadata: str, file: Path) -> None:
    import openvino

    with replaced_file(file.with_suffix(".onnx")) as temporary:
        _write_onnx(network, step, metadata, temporary)
        converted = openvino.convert_model(str(temporary))
    file.with_suffix(".onnx").unlink()
    converted.set_rt_info(metadata, [METADATA])
    openvino.save_model(converted, str(file), compress_to_fp16=False)


def _require_packages(format_: str) -> None:
    needed = {"onnx": ("onnx", "onnxscript"), "openvino": ("onnx", "onnxscript", "openvino")}
    for package in needed.get(format_, ()):
        if find_spec(package) is None:
            raise MissingPackageError(
                f"the format {format_} needs the package {package}: pip install {package}"
            )
