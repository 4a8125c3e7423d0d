"""Archives of NumPy's arrays from strangers: what is refused before NumPy reads it."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm

from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.numpy_archive import check_numpy_archive
from hipie.modeling.backbone import timm_checkpoint
from hipie.modeling.open_vocabulary.clip_loading import load_clip
from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from tests.limits import call_limited


def member(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_arrays_of_numpy_pass(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    arrays = {
        "a/b": noise,
        "scalar": np.array(3),
        "empty": np.zeros((0, 4)),
        "half": noise.astype("f2"),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    for name in ("a.npz", "b.npz"):
        check_numpy_archive(tmp_path / name)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_arrays_of_both_versions_pass(version: tuple[int, int], tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.arange(6).reshape(2, 3), version=version)
    check_numpy_archive(archive(tmp_path / "a.npz", {"a.npy": stream.getvalue()}))


def test_small_files_stay_small(tmp_path: Path) -> None:
    """What NumPy would reserve or inflate is many times what this process may have."""
    honest = member(np.zeros(4, np.float32))
    assert b"(4,), }  " in honest
    larger = honest.replace(b"(4,), }  ", b"(999,), }")
    code = honest.replace(b"(4,), }  ", b"(f(),), }")
    cases = {
        "declared": ({"a.npy": larger}, zipfile.ZIP_STORED, "declares 3,996 bytes, and its member"),
        "inflated": ({"a.npy": member(np.zeros(2**26))}, zipfile.ZIP_DEFLATED, "inflate to"),
        "code": ({"a.npy": code}, zipfile.ZIP_STORED, "damaged one"),
        "no array": ({"a.txt": b"text"}, zipfile.ZIP_STORED, "is no array"),
        "nothing": ({}, zipfile.ZIP_STORED, "no array"),
    }
    for name, (members, method, message) in cases.items():
        path = archive(tmp_path / f"{name}.npz", members, method)
        assert path.stat().st_size < 1 << 20
        outcome = call_limited(check_numpy_archive, path, mebibytes=64)
        assert outcome.startswith("CheckpointError: ") and message in outcome, (name, outcome)


def test_pickles_are_refused(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    np.savez(tmp_path / "a.npz", np.array([Harmful()], dtype=object))
    with pytest.raises(
        CheckpointError, match=r'"arr_0\.npy" is a pickle, and nothing of it was run'
    ):
        check_numpy_archive(tmp_path / "a.npz")
    assert not marker.exists()


def test_other_files_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    os.mkfifo(tmp_path / "pipe.npz")
    two = archive(tmp_path / "two.npz", {"a.npy": member(np.ones(3))})
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(two, "a") as file:
        file.writestr("a.npy", member(np.ones(3)))
    messages = {"text.npz": "no archive", "pipe.npz": "regular file", "two.npz": "two of one name"}
    for name, message in messages.items():
        with pytest.raises(CheckpointError, match=message):
            check_numpy_archive(tmp_path / name)


def test_clients_check_before_they_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(
        tmp_path / "weights.npz", {"a.npy": member(np.zeros(2**22))}, zipfile.ZIP_DEFLATED
    )
    # The files are checked before a model is built.
    for module, name in ((open_clip, "create_model"), (timm, "create_model")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(OpenVocabularyError, match="inflate to"):
        load_clip("ViT-B-16-SigLIP", str(path))
    monkeypatch.setattr(timm_checkpoint, "_published_file", lambda name: path)
    with pytest.raises(CheckpointError, match="inflate to"):
        timm_checkpoint.create_with_published_weights("vit_base_patch16_224")
