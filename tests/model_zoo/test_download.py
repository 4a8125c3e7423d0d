"""Weights of models from a stand-in of the hub on this machine: found, downloaded, checked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, file_download

from hipie.downloads import transfer
from hipie.model_zoo import download, hub, models, records
from hipie.model_zoo.download import check_file, find_file, model_file
from hipie.model_zoo.models import HubFile, Model, ModelError, UrlFile

from .hub_server import REVISION, Hub, serve

REPOSITORY = "owner/weights"
CONTENT = bytes(range(256)) * 4096  # 1 MiB
SOURCE = HubFile(
    REPOSITORY,
    "a.safetensors",
    revision=REVISION,
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size=len(CONTENT),
)
PINNED = Model("pinned", "tests", SOURCE, "none")
UNPINNED = replace(PINNED, name="unpinned", source=HubFile(REPOSITORY, "a.safetensors"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The stand-in, with empty caches."""
    stand_in = Hub({f"{REPOSITORY}/a.safetensors": CONTENT})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_XET_CACHE", str(tmp_path / "xet"), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)
    with serve(stand_in) as url:
        set_endpoint(monkeypatch, url)
        yield stand_in


def set_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What `HF_ENDPOINT` does when the client is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 1000]


def assert_one_sentence(error: BaseException, *parts: str) -> None:
    message = str(error)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("model", [PINNED, UNPINNED], ids=["pinned", "unpinned"])
def test_a_file_is_downloaded_once(server: Hub, model: Model) -> None:
    assert find_file(model) is None
    file = model_file(model)
    assert file.read_bytes() == CONTENT
    count = len(server.requests)
    assert model_file(model) == find_file(model) == file
    assert len(server.requests) == count


def test_the_first_use_records_revision_and_checksum(server: Hub) -> None:
    model_file(UNPINNED)
    entry = records.recorded("unpinned")
    assert entry == records.FileRecord("a.safetensors", REVISION, SOURCE.sha256, len(CONTENT))
    # A later change of the repository does not change what the name stands for.
    hub.discard(find_file(UNPINNED))
    server.files[f"{REPOSITORY}/a.safetensors"] = CONTENT[::-1]
    with pytest.raises(ModelError) as caught:
        model_file(UNPINNED)
    assert_one_sentence(caught.value, "another file there", SOURCE.sha256[:12])
    assert server.downloads == [""]


def test_a_broken_connection_is_resumed(server: Hub) -> None:
    server.break_after = [400_000]
    assert model_file(PINNED).read_bytes() == CONTENT
    first, second = server.downloads
    assert first == "" and int(second[6:-1]) > 0


def test_a_connection_that_breaks_for_good_leaves_no_file(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    server.break_after = [400_000, *[0] * 8]
    with pytest.raises(ModelError) as caught:
        model_file(PINNED)
    assert_one_sentence(caught.value, "pinned", "the connection broke", server.url)
    assert "Trying to resume" not in capfd.readouterr().err
    assert find_file(PINNED) is None
    assert not files_of(Path(constants.HF_HUB_CACHE))
    assert len(server.downloads) > 2
    server.break_after = []
    assert model_file(PINNED).read_bytes() == CONTENT


@pytest.mark.parametrize("change", [CONTENT[::-1], CONTENT + b"more", CONTENT[:-1]])
def test_another_content_is_removed(server: Hub, change: bytes, tmp_path: Path) -> None:
    server.sent[f"{REPOSITORY}/a.safetensors"] = change
    with pytest.raises(ModelError) as caught:
        model_file(PINNED)
    assert_one_sentence(caught.value, "pinned", server.url)
    assert find_file(PINNED) is None
    server.sent.clear()
    assert model_file(PINNED).read_bytes() == CONTENT


@pytest.mark.parametrize("model", [PINNED, UNPINNED], ids=["pinned", "unpinned"])
@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (403, "GatedRepo", "accepted its terms"),
        (401, "GatedRepo", "accepted its terms"),
        (404, "RepoNotFound", "no such repository"),
        (401, "", "no such repository"),
        (404, "RevisionNotFound", "this revision"),
        (500, "", "status 500"),
        (503, "", "status 503"),
        (403, "", "status 403"),
    ],
)
def test_a_refusal_is_one_sentence(
    server: Hub, model: Model, status: int, code: str, reason: str
) -> None:
    server.status, server.error_code = status, code
    with pytest.raises(ModelError) as caught:
        model_file(model)
    folder = str(records.models_folder() / model.name)
    alternative = "hipie-nano-photos"
    assert_one_sentence(caught.value, reason, f"{server.url}/{REPOSITORY}", folder, alternative)
    # The hub's client may ask for something else once a process.
    assert len([path for _, path, _ in server.requests if REPOSITORY in path]) == 1


@pytest.mark.parametrize("model", [PINNED, UNPINNED], ids=["pinned", "unpinned"])
def test_a_file_that_the_repository_does_not_have_is_named(server: Hub, model: Model) -> None:
    server.files = {f"{REPOSITORY}/other.txt": b"text"}
    with pytest.raises(ModelError, match="does not have th(e|is) file"):
        model_file(model)


@pytest.mark.parametrize("model", [PINNED, UNPINNED], ids=["pinned", "unpinned"])
def test_without_a_network_one_sentence_comes_within_seconds(
    server: Hub, model: Model, monkeypatch, capfd
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    set_endpoint(monkeypatch, address)
    started = time.monotonic()
    with pytest.raises(ModelError) as caught:
        model_file(model)
    assert time.monotonic() - started < 10
    assert_one_sentence(
        caught.value,
        f"{address}/{REPOSITORY}",
        "the connection was refused",
        f"put a.safetensors into {records.models_folder() / model.name}",
        "hipie-nano-photos",
    )
    assert capfd.readouterr() == ("", "")


def test_a_server_that_is_silent_is_given_up(server: Hub, monkeypatch) -> None:
    monkeypatch.setattr(hub, "REQUEST_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        set_endpoint(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        for model in (PINNED, UNPINNED):
            started = time.monotonic()
            with pytest.raises(ModelError, match="did not answer in time"):
                model_file(model)
            assert time.monotonic() - started < 10


def test_offline_mode_sends_nothing(server: Hub, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        model_file(PINNED)
    assert_one_sentence(caught.value, "HF_HUB_OFFLINE", server.url)
    assert not server.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    file = model_file(PINNED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert model_file(PINNED) == file


def test_a_full_disk_is_named_before_and_during_a_download(server: Hub, monkeypatch) -> None:
    usage = hub.shutil.disk_usage("/")._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(hub.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(ModelError, match=r"free space; HF_HOME names another folder"):
            model_file(PINNED)
    assert not server.downloads

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(ModelError) as caught:
        model_file(PINNED)
    assert_one_sentence(caught.value, "no space left", constants.HF_HUB_CACHE, "HF_HOME")
    assert find_file(PINNED) is None


def test_a_cache_that_cannot_be_written_is_named(server: Hub, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError) as caught:
        model_file(PINNED)
    assert_one_sentence(caught.value, str(tmp_path / "file"), "HF_HOME names another folder")


def test_records_that_cannot_be_written_do_not_stop_a_download(
    server: Hub, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert model_file(UNPINNED).read_bytes() == CONTENT
    assert model_file(PINNED).read_bytes() == CONTENT


def test_a_copy_by_hand_needs_no_network(server: Hub) -> None:
    folder = download.folder_by_hand(PINNED)
    folder.mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(CONTENT)
    assert model_file(PINNED) == folder / "a.safetensors"
    assert not server.requests


@pytest.mark.parametrize(
    ("content", "reason"), [(b"short", "bytes instead of"), (CONTENT[::-1], "SHA-256 begins")]
)
def test_a_copy_of_another_file_is_refused(server: Hub, content: bytes, reason: str) -> None:
    folder = download.folder_by_hand(PINNED)
    folder.mkdir(parents=True)
    file = folder / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        model_file(PINNED)
    assert_one_sentence(caught.value, str(file), "not the file of pinned", reason, "remove it")
    assert file.read_bytes() == content


def test_a_cached_file_that_changed_is_refused(server: Hub) -> None:
    file = model_file(PINNED)
    file.resolve().write_bytes(CONTENT[::-1])
    os.utime(file.resolve(), ns=(1, 1))
    with pytest.raises(ModelError, match="SHA-256"):
        model_file(PINNED)


def test_only_a_new_check_finds_a_change_that_keeps_the_date(server: Hub) -> None:
    file = model_file(PINNED)
    status = file.stat()
    file.resolve().write_bytes(CONTENT[::-1])
    os.utime(file.resolve(), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert model_file(PINNED) == file
    with pytest.raises(ModelError, match="SHA-256"):
        check_file(PINNED, file, again=True)


@pytest.mark.parametrize(
    ("files", "paco", "parts"),
    [
        (["r50_parts.pth", "vit_h_cloud.pth", "vit_h_paco.pth"], 2, 1),
        (["r50_parts.pth", "vit_h_cloud.pth", "vit_h_parts.pth"], 1, 2),
        (["README.md", "R50_Parts.pth", "ViT-H_PACO.pth", "vith_pascal_parts.pth"], 2, 3),
        (["r50_parts.pth", "a/vit_paco.pth", "config.yaml"], 1, None),
        (["r50_parts.pth", "one.pth", "two.pth"], None, None),
        (["README.md"], None, None),
    ],
)
def test_the_files_of_a_repository_are_told_by_their_names(files, paco, parts) -> None:
    listed = [records.FileRecord(name, REVISION, "", 1) for name in files]
    for name, index in (("hipie-vit-h-paco", paco), ("hipie-vit-h-parts", parts)):
        source = models.MODELS[name].source
        if index is None:
            with pytest.raises(hub.HubRequestError, match="cannot be told"):
                hub.choose_file(listed, source.others, source.keyword)
        else:
            assert hub.choose_file(listed, source.others, source.keyword).file == files[index]


def official(backbone: str) -> dict[str, torch.Tensor]:
    names = ("detr.detr.transformer.level_embed", "detr.mask_dino.predictor.decoder_norm.weight")
    names += (f"detr.detr.backbone.0.backbone.{backbone}",)
    return {name: torch.zeros(1) for name in names}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (official("blocks.0.norm1.weight"), ""),
        (official("res2.0.conv1.weight"), "its backbone is a ResNet instead of a ViT"),
        ({"image_encoder.pos_embed": torch.zeros(1)}, "of the layout"),
        (None, "truncated or is no file of weights"),
    ],
)
def test_a_file_found_by_its_name_is_checked_by_its_keys(
    server: Hub, tmp_path: Path, state, reason: str
) -> None:
    model = models.MODELS["hipie-vit-h-parts"]
    stored = tmp_path / "stored.pth"
    if state is None:
        stored.write_bytes(b"PK\3\4 but nothing else")
    else:
        torch.save({"model": state}, stored)
    server.files = {"KonstantinosKK/HIPIE/vit_h_cloud.pth": stored.read_bytes()}
    if not reason:
        assert model_file(model).read_bytes() == stored.read_bytes()
        return
    with pytest.raises(ModelError) as caught:
        model_file(model)
    assert_one_sentence(caught.value, "hipie-vit-h-parts", reason)
    assert find_file(model) is None
    folder = download.folder_by_hand(model)
    folder.mkdir(parents=True)
    (folder / "any_name.pth").write_bytes(stored.read_bytes())
    with pytest.raises(ModelError) as caught:
        model_file(model)
    assert_one_sentence(caught.value, str(folder / "any_name.pth"))


def at_address(server: Hub, **options: object) -> Model:
    """A model whose file is at an address of this machine."""
    url = f"{server.url}/{REPOSITORY}/resolve/main/a.safetensors"
    return Model("addressed", "tests", UrlFile(url, **options), "none")  # type: ignore[arg-type]


@pytest.fixture
def address_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "addresses"))
    monkeypatch.setattr(transfer, "PAUSE_SECONDS", 0.0)
    return tmp_path / "addresses"


def test_a_file_of_an_address_is_downloaded_once_and_recorded(server: Hub, address_cache) -> None:
    model = at_address(server)
    assert find_file(model) is None
    server.break_after = [400_000]
    file = model_file(model)
    assert file.read_bytes() == CONTENT and file.is_relative_to(address_cache)
    count = len(server.requests)
    assert count == 2 and model_file(model) == file and len(server.requests) == count
    assert records.recorded("addressed").sha256 == SOURCE.sha256
    file.unlink()
    server.files[f"{REPOSITORY}/a.safetensors"] = CONTENT[::-1]
    with pytest.raises(ModelError, match="SHA-256"):
        model_file(model)


@pytest.mark.parametrize(
    "options", [{"sha256": "0" * 64}, {"md5_start": "0" * 6}, {"size": 5, "sha256": "0" * 64}]
)
def test_another_file_of_an_address_is_removed(server: Hub, address_cache, options) -> None:
    with pytest.raises(ModelError) as caught:
        model_file(at_address(server, **options))
    assert_one_sentence(caught.value, "addressed", server.url, "hipie-nano-photos")
    assert not files_of(address_cache)


def test_the_published_start_of_an_md5_is_enough(server: Hub, address_cache) -> None:
    start = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()[:6]
    assert model_file(at_address(server, md5_start=start)).read_bytes() == CONTENT


def test_an_address_without_a_file_or_network_is_one_sentence(
    server: Hub, address_cache, monkeypatch
) -> None:
    model = at_address(server)
    server.files = {}
    for status in (0, 403, 404):
        server.status = status
        with pytest.raises(ModelError) as caught:
            model_file(model)
        assert_one_sentence(caught.value, "addressed", server.url, "hipie-nano-photos")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    count = len(server.requests)
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE.*; put a\.safetensors into"):
        model_file(model)
    assert len(server.requests) == count


def test_an_address_in_a_network_that_is_silent_is_given_up(
    server: Hub, address_cache, monkeypatch
) -> None:
    def silent(*_: object, **__: object) -> None:
        time.sleep(0.01)
        raise TimeoutError(errno.ETIMEDOUT, "timed out")

    monkeypatch.setattr(download.socket, "create_connection", silent)
    with pytest.raises(ModelError) as caught:
        model_file(at_address(server))
    assert_one_sentence(caught.value, "did not answer in time", str(address_cache), server.url)
    assert not server.requests
    monkeypatch.setattr(download.socket, "create_connection", lambda *_, **__: time.sleep(9))
    monkeypatch.setattr(hub, "CONNECT_SECONDS", 0.2)
    with pytest.raises(ModelError, match="did not answer in time"):
        model_file(at_address(server))


PROGRAM = """
import sys
from hipie.model_zoo.download import model_file
from hipie.model_zoo.models import HubFile, Model
source = HubFile("owner/weights", "a.safetensors")
print(model_file(Model("unpinned", "tests", source, "none")))
"""


def test_of_two_processes_one_downloads(server: Hub, tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    environment["HF_HUB_OFFLINE"] = "0"
    command = [sys.executable, "-c", PROGRAM]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0].strip() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert outputs[0] == outputs[1] and Path(outputs[0]).read_bytes() == CONTENT
    assert Path(outputs[0]).is_relative_to(tmp_path / "home")
    assert len(server.downloads) == 1
    written = json.loads((records.models_folder() / records.RECORDS).read_text())
    assert written["models"]["unpinned"]["revision"] == REVISION
