"""Folders of sharded checkpoints: round trip, damage, unsafe content, and conversion to one file.

Here one process writes; `tests/engine/test_sharding.py` has several.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint import metadata

from hipie.checkpoint import Checkpointer, CheckpointError, read_state
from hipie.checkpoint.sharded import (
    STATE,
    TABLE,
    is_sharded_checkpoint,
    join_tensors,
    load_sharded,
    read_sharded,
    split_tensors,
    write_sharded,
)
from hipie.cli.checkpoint import main
from tests.limits import call_limited


def content() -> dict:
    """What a training writes: weights, an optimizer's state, plain values."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "model": {**model.state_dict(), "half": torch.rand(5).half(), "count": torch.tensor(7)},
        "trainer": {"optimizer": optimizer.state_dict(), "hooks": [{"step": 3}, (1, None)]},
        "iteration": 12,
    }


def assert_equal(first: object, second: object) -> None:
    """Equal containers with equal tensors of equal types."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list | tuple):
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


def test_tensors_are_separated_and_put_back() -> None:
    original = content()
    rest, tensors = split_tensors(original)
    assert "trainer/optimizer/state/0/exp_avg" in tensors
    assert pickle.loads(pickle.dumps(rest)) == rest
    assert_equal(join_tensors(rest, tensors), original)


def test_round_trip(tmp_path) -> None:
    folder = tmp_path / "model_0000012.dcp"
    write_sharded(folder, content())
    written = content()
    write_sharded(folder, written)  # replaces the first one
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert is_sharded_checkpoint(folder) and not is_sharded_checkpoint(tmp_path)
    assert_equal(read_sharded(folder), written)
    assert_equal(read_state(folder)["trainer"], written["trainer"])
    templates = {"model": {**content()["model"], "more": torch.zeros(1)}}
    loaded = load_sharded(folder, templates)
    assert_equal(loaded, written)
    assert loaded["model"]["weight"] is not written["model"]["weight"]
    assert torch.equal(templates["model"]["weight"], written["model"]["weight"])


def test_what_does_not_fit_is_named(tmp_path) -> None:
    write_sharded(tmp_path / "a.dcp", content())
    wrong = content()["model"]
    wrong["bias"] = torch.zeros(3)
    with pytest.raises(
        CheckpointError, match=r'"model/bias" is \(2,\) in the checkpoint and \(3,\)'
    ):
        load_sharded(tmp_path / "a.dcp", {"model": wrong})
    del wrong["bias"]
    with pytest.raises(CheckpointError, match='no "model/bias"; it is of another model'):
        load_sharded(tmp_path / "a.dcp", {"model": wrong})


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("file", [TABLE, STATE])
def test_pickled_code_never_runs(tmp_path, file) -> None:
    folder = tmp_path / "a.dcp"
    write_sharded(folder, content())
    with open(folder / file, "wb") as stream:
        pickle.dump(Evil(tmp_path / "ran"), stream)
    with pytest.raises(CheckpointError, match="refused, and nothing of it was run"):
        read_state(folder)
    assert not (tmp_path / "ran").exists()


def test_a_table_cannot_name_files_elsewhere(tmp_path) -> None:
    folder = tmp_path / "a.dcp"
    write_sharded(folder, content())
    table = pickle.loads((folder / TABLE).read_bytes())
    for info in table.storage_data.values():
        info.relative_path = f"../{info.relative_path}"
    (folder / TABLE).write_bytes(pickle.dumps(table))
    with pytest.raises(CheckpointError, match=r'names the file "\.\./__0_0'):
        read_sharded(folder)


DEEP_KEY = b"\x80\x02})" + b"\x85" * 150_000 + b"Ns."
STATES = {
    "a class": b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n}U\x01xNsb.",
    "a size": b"\x80\x02ctorch\nSize\n(NN)\x85R}U\x01xNsb.",
    "another field": b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81}U\x01xNsb.",
}


@pytest.mark.parametrize("place", [TABLE, STATE, "a tensor"])
def test_deep_tuples_as_keys_do_not_end_the_process(tmp_path, place) -> None:
    folder = tmp_path / "a.dcp"
    write_sharded(folder, content())
    if place == TABLE:
        (folder / TABLE).write_bytes(DEEP_KEY)
    else:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("x/data.pkl", DEEP_KEY)
        data = (tmp_path / "x.zip").read_bytes()
        if place == STATE:
            (folder / STATE).write_bytes(data)
        else:
            table = pickle.loads((folder / TABLE).read_bytes())
            for info in table.storage_data.values():
                info.offset, info.length = 0, len(data)
            (folder / TABLE).write_bytes(pickle.dumps(table))
            (folder / "__0_0.distcp").write_bytes(data)
    outcome = call_limited(read_sharded, folder)
    assert outcome.startswith(f"CheckpointError: {folder}: ")
    assert "deep" in outcome


@pytest.mark.parametrize("name", STATES)
def test_only_objects_of_the_table_have_a_state(tmp_path, name) -> None:
    folder = tmp_path / "a.dcp"
    write_sharded(folder, content())
    (folder / TABLE).write_bytes(STATES[name])
    before = dict(vars(metadata.Metadata))
    with pytest.raises(CheckpointError, match="refused, and nothing|is damaged"):
        read_sharded(folder)
    assert dict(vars(metadata.Metadata)) == before


def test_a_table_that_declares_more_than_the_files_have(tmp_path) -> None:
    folder = tmp_path / "a.dcp"
    write_sharded(folder, content())
    table = pickle.loads((folder / TABLE).read_bytes())
    table.state_dict_metadata["model/bias"].size = torch.Size([2**40])
    (folder / TABLE).write_bytes(pickle.dumps(table))
    with pytest.raises(CheckpointError, match=r"declares tensors of 4,398,046,\d+,\d+ bytes"):
        read_sharded(folder)


def test_compressed_tensors_are_refused(tmp_path) -> None:
    folder = tmp_path / "a.dcp"
    write_sharded(folder, content())
    table = pickle.loads((folder / TABLE).read_bytes())
    for info in table.storage_data.values():
        info.transform_descriptors = ["zstd"]
    (folder / TABLE).write_bytes(pickle.dumps(table))
    with pytest.raises(CheckpointError, match="compressed"):
        read_sharded(folder)


@pytest.mark.parametrize("file", [TABLE, STATE, "__0_0.distcp"])
def test_damage_is_one_sentence(tmp_path, file) -> None:
    folder = tmp_path / "a.dcp"
    write_sharded(folder, content())
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 3])
    with pytest.raises(
        CheckpointError, match=r"a\.dcp: .*(damaged|could not be read|has no)"
    ) as error:
        read_sharded(folder)
    assert "\n" not in str(error.value)


def test_failed_write_keeps_the_previous_checkpoint(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "a.dcp"
    written = content()
    write_sharded(folder, written)

    def full_disk(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hipie.checkpoint.sharded.torch.save", full_disk)
    with pytest.raises(CheckpointError, match="could not be written"):
        write_sharded(folder, content())
    assert_equal(read_sharded(folder), written)


def test_conversion_to_one_file(tmp_path, capsys) -> None:
    written = content()
    write_sharded(tmp_path / "a.dcp", written)
    assert main(["convert", str(tmp_path / "a.dcp"), str(tmp_path / "a.safetensors")]) == 0
    assert_equal(load_file(tmp_path / "a.safetensors"), dict(written["model"]))
    assert main(["inspect", str(tmp_path / "a.dcp")]) == 0
    assert "other content: trainer, iteration" in capsys.readouterr().out


def test_a_run_without_sharding_reads_it(tmp_path) -> None:
    model, source = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = content()["trainer"]["optimizer"]
    write_sharded(tmp_path / "a.dcp", {"model": source.state_dict(), "optimizer": state})
    checkpointer = Checkpointer(model, str(tmp_path), optimizer=optimizer)
    checkpointer.tag_last_checkpoint("a.dcp")
    checkpointer.resume_or_load("", resume=True)
    assert torch.equal(model.weight, source.weight)
    assert torch.equal(optimizer.state[model.weight]["exp_avg"], state["state"][0]["exp_avg"])
