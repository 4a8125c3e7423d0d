"""Reading of files of weights."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import pickle
import struct
import tracemalloc
import types
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from yacs.config import CfgNode

from hipie.checkpoint import CheckpointError, read_state
from hipie.checkpoint.read import unwrap_names
from hipie.cli.checkpoint import main


class LinearClass:
    """Class of somebody's program, beside the weights; counts how often it is built."""

    built = 0

    def __init__(self) -> None:
        type(self).built += 1

    def __setstate__(self, state) -> None:
        type(self).built += 1


def weights() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}


def error_message(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_state(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "bare.pth", "state_dict.pth", "x.pkl"])
def test_every_format_has_the_same_tensors(tmp_path, name):
    path = tmp_path / name
    if name == "x.safetensors":
        save_file(weights(), path)
    elif name == "x.pkl":
        arrays = {key: value.numpy() for key, value in weights().items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}))
    else:
        content = {"x": {"model": weights()}, "bare": weights(), "state_dict": None}[path.stem]
        torch.save(content or {"state_dict": weights(), "epoch": 3}, path)
    state = read_state(path)["model"]
    assert state.keys() == weights().keys()
    for key, value in weights().items():
        assert torch.equal(state[key], value)


def test_training_checkpoint_keeps_its_other_content(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [2]).state_dict(),
        "iteration": 9,
        "best": np.float64(0.5),
        "random": np.random.default_rng(1).bit_generator.state,
    }
    torch.save(content, tmp_path / "x.pth")
    read = read_state(tmp_path / "x.pth")
    assert read["iteration"] == 9
    assert read["best"] == 0.5
    optimizer.load_state_dict(read["optimizer"])
    assert isinstance(read["model"], dict)


def test_caffe2_files_have_no_author(tmp_path):
    arrays = {"conv1_w": np.ones((2, 2), "f4"), "conv1_w_momentum": np.ones((2, 2), "f4")}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    read = read_state(path)
    assert list(read["model"]) == ["conv1_w"]
    assert read["matching_heuristics"] is True
    assert read["__author__"] == "Caffe2"


def test_files_that_name_code_are_refused(traps):
    files, owned = traps
    for file in files:
        assert "refused, and nothing of it was run" in error_message(file)
        assert not owned.exists()


SETTINGS = {
    "namespace": argparse.Namespace(lr=1, out=pathlib.Path("/x")),
    "path": pathlib.PurePosixPath("a/b"),
    "version": torch.__version__,
    "defaultdict": defaultdict(list, {"a": [1]}),
    "ordered": OrderedDict(a=1),
    "counter": Counter("aab"),
    "number": np.float32(2.5),
    "array": np.arange(3),
    "date": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    "simple": types.SimpleNamespace(a=1),
    "foreign": LinearClass(),
    "config": CfgNode({"A": CfgNode({"B": 1})}),
    "set": {1, 2},
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "size": torch.Size([2, 3]),
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("zipped", [True, False])
def test_settings_beside_weights_are_inert(tmp_path, kind, zipped):
    path = tmp_path / "x.pth"
    content = {"model": weights(), "args": SETTINGS[kind], "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    LinearClass.built = 0
    read = read_state(path)
    assert LinearClass.built == 0
    assert read["epoch"] == 3
    for key, value in weights().items():
        assert torch.equal(read["model"][key], value)
    if kind in ("ordered", "number", "set", "defaultdict"):
        assert read["args"] == SETTINGS[kind]


WRAPPERS = [
    "model",
    "state_dict",
    "model_state",
    "model_state_dict",
    "module",
    "net",
    "params",
    "model.state_dict",
    "checkpoint",
]
AVERAGES = ["model_ema", "ema_state_dict", "ema", "params_ema", "ema_model", "state_dict_ema"]


def nested(names: str, state):
    for name in reversed(names.split(".")):
        state = {name: state}
    return {**state, "epoch": 3, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}


@pytest.mark.parametrize("names", [*WRAPPERS, *AVERAGES])
def test_weights_are_found_under_the_usual_names(tmp_path, names):
    torch.save(nested(names, weights()), tmp_path / "x.pth")
    read = read_state(tmp_path / "x.pth")
    assert read["model"].keys() == weights().keys()
    assert read["epoch"] == 3


@pytest.mark.parametrize("average", AVERAGES)
def test_averaged_weights_are_taken_on_request(tmp_path, average):
    averaged = {key: value + 1 for key, value in weights().items()}
    torch.save({"model": weights(), average: averaged}, tmp_path / "x.pth")
    assert torch.equal(read_state(tmp_path / "x.pth")["model"]["a.count"], torch.tensor(3))
    read = read_state(f"{tmp_path / 'x.pth'}?ema=True")
    assert torch.equal(read["model"]["a.count"], torch.tensor(4))


def test_missing_average_is_an_error(tmp_path):
    torch.save({"model": weights(), "epoch": 1}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no averaged weights; its keys are 'model', 'epoch'"):
        read_state(f"{tmp_path / 'x.pth'}?ema=True")


def test_keys_of_a_file_without_known_weights_are_listed(tmp_path):
    content = {"first": {"a": torch.ones(1)}, "second": {"a": torch.ones(1)}, 3: 4}
    torch.save(content, tmp_path / "x.pth")
    assert "its keys are 'first', 'second', int" in error_message(tmp_path / "x.pth")


def test_torchscript_archive_is_read_as_its_tensors(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 2))).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, torch.ones(2, 3)), str(tmp_path / "x.pt"))
    state = read_state(tmp_path / "x.pt")["model"]
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", [True, False])
def test_pickled_module_is_read_as_its_tensors(tmp_path, zipped, below):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    content = {"model": model, "epoch": 1} if below else model
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    state = read_state(tmp_path / "x.pth")["model"]
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value)


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8]
NEW_DTYPES = [torch.float8_e4m3fn, torch.uint16]
DTYPES += [torch.bool, torch.complex64, *NEW_DTYPES]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_equal_those_of_torch(tmp_path, dtype, zipped):
    if not zipped and dtype in NEW_DTYPES:
        pytest.skip("PyTorch itself cannot read this type from a legacy file")
    base = torch.arange(24).to(dtype)
    tensors = {
        "whole": base,
        "view": base[3:9].view(2, 3),
        "transposed": base.view(4, 6).t(),
        "strided": base[::5],
        "empty": base[:0].view(0, 3),
        "number": base[7],
        "expanded": base[:1].expand(5, 1),
        "parameter": nn.Parameter(base.clone(), requires_grad=dtype == torch.float64),
    }
    torch.save(tensors, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    read = read_state(tmp_path / "x.pth")["model"]
    expected = torch.load(tmp_path / "x.pth", weights_only=True)
    for name, value in expected.items():
        assert read[name].dtype == value.dtype
        assert read[name].stride() == value.stride()
        assert read[name].tolist() == value.tolist()
    assert read["view"].data_ptr() - read["whole"].data_ptr() == 3 * dtype.itemsize


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.eye(3).to_sparse(), "a sparse tensor"),
        (torch.eye(3).to_sparse_csr(), "a sparse tensor"),
        (torch.ones(3, device="meta"), "a tensor without values"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "QInt8Storage"),
        (torch.ones(1).expand(2**40), "a tensor of 1,099,511,627,776 elements in 1"),
    ],
    ids=["sparse", "csr", "meta", "quantized", "expanded"],
)
def test_tensors_of_other_kinds_are_named(tmp_path, tensor, kind):
    torch.save({"model": {"a": tensor}}, tmp_path / "x.pth")
    assert kind in error_message(tmp_path / "x.pth")


def test_array_of_a_type_that_torch_lacks_is_named(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.ones(2, np.longdouble)}, "__author__": "x"}))
    assert '"a" is of the type' in error_message(path)


def test_compressed_members_are_refused(tmp_path):
    torch.save({"model": weights()}, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as plain,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    assert "compressed" in error_message(tmp_path / "small.pth")


def test_overlapping_members_are_refused(tmp_path):
    torch.save({"model": {"a": torch.ones(1000), "b": torch.ones(1000)}}, tmp_path / "x.pth")
    data = bytearray((tmp_path / "x.pth").read_bytes())
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        first, second = (archive.getinfo(f"x/data/{key}") for key in "01")
    entry = data.rindex(b"x/data/1") - 46
    assert data[entry : entry + 4] == b"PK\x01\x02"
    struct.pack_into("<I", data, entry + 42, first.header_offset)
    assert second.header_offset != first.header_offset
    (tmp_path / "x.pth").write_bytes(data)
    assert "overlap" in error_message(tmp_path / "x.pth")


PROTOCOL = b"\x80\x02"
BOMBS = {
    "lists twice in the next": PROTOCOL + b"]q\x00" + b"(h\x00h\x00lq\x00" * 60 + b".",
    "tuples twice in the next": PROTOCOL + b")" + b"q\x00h\x00\x86" * 60 + b".",
    "deep tuple as a key": PROTOCOL + b"})" + b"\x85" * 150_000 + b"Ns.",
    "deep list": PROTOCOL + b"]q\x00" + b"](h\x00eq\x00" * 200 + b".",
    "list in itself": PROTOCOL + b"]q\x00h\x00a.",
    "integer of 3,000 bytes": PROTOCOL + b"}\x8b\xb8\x0b\0\0" + b"x" * 3000 + b"Ns.",
}
DAMAGED = {
    "array of 2**62 bytes": b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b".",
    "bytes of 2**62": b"\x80\x05\x8e" + (2**62).to_bytes(8, "little") + b".",
    "frame of 2**40": b"\x80\x05\x95" + (2**40).to_bytes(8, "little") + b"N.",
    "digits": b"I" + b"9" * 10_000 + b"\n.",
}


@pytest.mark.parametrize("name", [*BOMBS, *DAMAGED])
@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
@pytest.mark.timeout(20)
def test_small_files_stay_small(tmp_path, name, suffix):
    path = tmp_path / f"x{suffix}"
    pickled = (BOMBS | DAMAGED)[name]
    if suffix == ".pth":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", pickled)
    else:
        path.write_bytes(pickled)
    tracemalloc.start()
    message = error_message(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ("refused" in message) if name in BOMBS else ("truncated" in message)
    assert peak < 200 * 2**20


def test_state_of_a_function_cannot_be_set(tmp_path):
    code = PROTOCOL + b"ccollections\nOrderedDict\n}(X\x08\0\0\0__name__X\x01\0\0\0xub."
    (tmp_path / "x.pkl").write_bytes(code)
    assert "refused" in error_message(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda name: f"module.{name}", "module"),
        (lambda name: f"model.module._orig_mod.{name}", "three"),
        (lambda name: f"_orig_mod.module.{name}", "compiled"),
        (lambda name: f"net._fsdp_wrapped_module.{name}", "fsdp"),
        (lambda name: name.replace(".", "._checkpoint_wrapped_module."), "inside"),
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_names_are_unwrapped(wrap, name, beside):
    state = {wrap(key): value for key, value in weights().items()}
    extra = {"n_averaged": torch.tensor(3)} if beside else {}
    assert unwrap_names({**state, **extra}).keys() == weights().keys() | extra.keys()


def test_own_prefixes_are_kept():
    state = {"model.a": torch.ones(1), "model.b": torch.ones(1)}
    assert unwrap_names(state, ["model.a", "model.b", "x"]) == state
    wrapped = {f"module.{name}": value for name, value in state.items()}
    assert unwrap_names(wrapped, ["model.a"]) == state


@pytest.mark.parametrize(
    ("content", "description"),
    [
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n <html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    ],
)
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.pkl"])
def test_failed_downloads_are_named(tmp_path, content, description, name):
    (tmp_path / name).write_bytes(content)
    assert description in error_message(tmp_path / name)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "old.pth", "x.pkl"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_truncated_file_is_an_error(tmp_path, name, share):
    path = tmp_path / name
    state = {f"layer{i}.weight": torch.ones(30, 30) for i in range(5)}
    if name == "x.safetensors":
        save_file(state, path)
    elif name == "x.pkl":
        path.write_bytes(pickle.dumps({k: v.numpy() for k, v in state.items()}))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "x.pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "truncated" in error_message(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.pth", b"404 not found"),
        ("x.safetensors", b"404 not found"),
        ("x.pkl", b"404 not found"),
        ("x.bin", bytes(range(256))),
    ],
)
def test_files_of_other_formats_are_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "no file of weights" in error_message(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, {"epoch": 3}, torch.ones(2), {}])
def test_files_without_weights_are_an_error(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    message = error_message(tmp_path / "x.pth")
    assert "contains no weights" in message or "instead of weights" in message


def test_missing_files_and_folders_are_an_error(tmp_path):
    assert "no such file" in error_message(tmp_path / "nothing.pth")
    assert "folder" in error_message(tmp_path)


def test_failed_download_is_an_error(monkeypatch):
    def refuse(path, **options):
        raise OSError("connection refused")

    monkeypatch.setattr("hipie.checkpoint.read.PathManager.get_local_path", refuse)
    with pytest.raises(CheckpointError, match=r"https://x/y\.pth: it could not be downloaded"):
        read_state("https://x/y.pth")


def test_addresses_are_resolved_by_the_path_manager(tmp_path, monkeypatch):
    save_file(weights(), tmp_path / "kept.safetensors")
    paths = []

    def fetch(path, **options):
        paths.append(path)
        return str(tmp_path / "kept.safetensors")

    monkeypatch.setattr("hipie.checkpoint.read.PathManager.get_local_path", fetch)
    assert read_state("detectron2://a/kept.safetensors")["model"].keys() == weights().keys()
    assert paths == ["detectron2://a/kept.safetensors"]


def test_entries_that_are_no_tensors_are_left_out(tmp_path):
    torch.save(
        OrderedDict([("a", torch.ones(1)), (3, torch.ones(1)), ("b", "text")]), tmp_path / "x.pth"
    )
    assert list(read_state(tmp_path / "x.pth")["model"]) == ["a"]


def test_names_in_weights_are_printable_in_messages_and_output(tmp_path, capsys):
    hostile = "a\x1b[2J\r\nb\u202e\x9b31m"
    torch.save({"model": {hostile: torch.ones(1)}, hostile: 3}, tmp_path / "x.pth")
    assert main(["inspect", "--all", str(tmp_path / "x.pth")]) in (0, None)
    output = capsys.readouterr().out
    assert r"a\x1b[2J\r\nb\u202e\x9b31m" in output
    assert all(line.isprintable() for line in output.split("\n"))
    for content in ({hostile: [1]}, {"model": {hostile: torch.ones(2).to_sparse()}}, hostile):
        torch.save(content, tmp_path / "y.pth")
        assert error_message(tmp_path / "y.pth").isprintable()
    (tmp_path / "z.pkl").write_bytes(b"cos\x1b[2J\nsys\x9btem\n.")
    assert error_message(tmp_path / "z.pkl").isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"blobs": [1]}, "no weights"),
        ({"blobs": {"a": [1]}}, "no weights"),
        ({10**7000: 1}, "an integer of 2,907 bytes"),
    ],
    ids=["list", "no array", "integer"],
)
def test_odd_content_is_one_sentence(tmp_path, content, message):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, 2))
    assert message in error_message(tmp_path / "x.pkl")


def test_nested_tensors_are_refused(tmp_path):
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)
        torch.save({"model": {"a": nested}}, tmp_path / "x.pth")
        assert "refused" in error_message(tmp_path / "x.pth")
