"""Files of exported models, with what a program needs to prepare images and read predictions."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from detectron2.config import CfgNode

from hipie.atomic_file import replaced_file
from hipie.errors import InputError, MissingPackageError
from hipie.export.traceable import ExportRequest, TraceableNetwork, find_exporter
from hipie.modeling.meta_arch.base import SegmentationModel

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torchexport": ".pt2"}
# Entry of a file's metadata; see `TraceableNetwork.description`.
METADATA = "hipie"
ONNX_OPSET = 18


def export_model(
    model: SegmentationModel, cfg: CfgNode, request: ExportRequest, file: Path, format_: str
) -> list[Path]:
    """Write a model into a file (for OpenVINO two, .xml and .bin), and its text encoder beside it.

    What is exported is described at the exporter of the architecture, for HIPIE at
    `ExportedNetwork` (with a vocabulary) and `OpenVocabularyNetwork` (without, and with the text
    encoder in a file of its own).

    Args:
        model: in float32, on the CPU.
        cfg: its configuration.
        request: what it is exported for.
        file: with the suffix of the format; replaced if it exists.
        format_: a key of `SUFFIXES`. Files of "torchexport" are read by `torch.export.load` after
            `import hipie.ops`, whose operator they call.

    Returns:
        The files; the name of a text encoder's ends in "_text".

    Raises:
        InputError: for another format or suffix, or a request that the architecture does not have.
        UnsupportedError: for a model that cannot be exported.
        MissingPackageError: naming the package that a format needs.
    """
    if format_ not in SUFFIXES:
        raise InputError(f'the format is "{format_}"; it has to be {", ".join(SUFFIXES)}')
    if file.suffix != SUFFIXES[format_]:
        raise InputError(f"{file}: files of the format {format_} end in {SUFFIXES[format_]}")
    _require_packages(format_)
    networks = find_exporter(type(model).__name__)(model, cfg, request)
    files = [file.with_stem(file.stem + suffix) for suffix in networks]
    for target, network in zip(files, networks.values(), strict=True):
        _write(network, target, format_)
    return files


def _write(network: TraceableNetwork, file: Path, format_: str) -> None:
    metadata = json.dumps(network.description, ensure_ascii=False)
    if format_ == "torchexport":
        with replaced_file(file) as temporary, temporary.open("wb") as stream:
            torch.export.save(_trace(network), stream, extra_files={METADATA: metadata})
    elif format_ == "onnx":
        with replaced_file(file) as temporary:
            _write_onnx(network, metadata, temporary)
    else:
        _write_openvino(network, metadata, file)


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


def _trace(network: TraceableNetwork) -> torch.export.ExportedProgram:
    with _traceable():
        return torch.export.export(
            network.network,
            tuple(network.inputs.values()),
            dynamic_shapes=network.dynamic_shapes or None,
            strict=False,
        )


def _write_onnx(network: TraceableNetwork, metadata: str, file: Path) -> None:
    import onnx

    with _traceable():
        program = torch.onnx.export(
            network.network,
            tuple(network.inputs.values()),
            dynamo=True,
            input_names=list(network.inputs),
            output_names=list(network.output_names),
            dynamic_shapes=network.dynamic_shapes or None,
            opset_version=ONNX_OPSET,
            optimize=False,
            verbose=False,
        )
    assert program is not None  # without a file name
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, metadata
    onnx.save(proto, str(file))


def _write_openvino(network: TraceableNetwork, metadata: str, file: Path) -> None:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "model.onnx"
        _write_onnx(network, metadata, temporary)
        converted = openvino.convert_model(str(temporary))
    converted.set_rt_info(metadata, [METADATA])
    openvino.save_model(converted, str(file), compress_to_fp16=False)


def _require_packages(format_: str) -> None:
    needed = {"onnx": ("onnx", "onnxscript"), "openvino": ("onnx", "onnxscript", "openvino")}
    for package in needed.get(format_, ()):
        if find_spec(package) is None:
            raise MissingPackageError(
                f"the format {format_} needs the package {package}: pip install {package}"
            )
