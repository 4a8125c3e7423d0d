"""Downloads from a server on the loopback device: resumption, checks, errors, several processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hipie.downloads.transfer as transfer
from hipie.downloads import DownloadError, download

CONTENT = bytes(range(256)) * 4096


def error_message(url: str, **options: object) -> str:
    """Message of a download that fails: one line that names the address."""
    with pytest.raises(DownloadError) as caught:
        download(url, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert url.partition("?")[0][:100] in message
    return message


def files_below(folder: Path) -> list[str]:
    """Names of all files of a folder but locks."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_a_file_is_downloaded_once(server, cache):
    url = server.serve("/a/b/model.pth", CONTENT)
    path = download(url)
    assert path.read_bytes() == CONTENT
    assert path == cache / f"http+127.0.0.1+{server.http.server_port}" / "a/b/model.pth"
    assert download(url) == path
    assert len(server.requests) == 1
    assert files_below(cache) == ["model.pth"]
    assert download(url, force=True) == path
    assert len(server.requests) == 2


def test_a_folder_is_chosen(server, tmp_path):
    path = download(server.serve("/a/model.pth", CONTENT), folder=tmp_path / "new/folder")
    assert path == tmp_path / "new/folder/model.pth"


def test_a_copy_put_by_hand_is_used(server):
    url = server.url("/a/model.pth")
    message = error_message(url)
    assert "no such file, status 404" in message
    folder, name = re.search(r"put into (\S+) as (\S+)$", message).groups()
    Path(folder, name).write_bytes(b"by hand")
    assert download(url).read_bytes() == b"by hand"


@pytest.mark.parametrize("breaks", [[1000], [5, 70_000, 0, 300_000], [0, 0, 0]])
def test_broken_connections_are_resumed(server, breaks):
    url = server.serve("/model.pth", CONTENT, breaks=list(breaks))
    assert download(url).read_bytes() == CONTENT
    starts = [int(wanted[6:-1]) for _, wanted in server.requests if wanted]
    assert starts == sorted(starts)
    assert len(server.requests) == len(breaks) + 1
    assert bool(starts) == (sum(breaks) > 0)


def test_an_interrupted_download_is_continued_by_the_next_call(server, cache):
    url = server.serve("/model.pth", CONTENT, breaks=[100_000] + [0] * (transfer.ATTEMPTS - 1))
    assert "connection was closed" in error_message(url)
    (partial,) = files_below(cache)
    assert re.fullmatch(r"\.model\.pth\.[0-9a-f]{16}\.[0-9a-f]{16}\.partial", partial)
    server.requests.clear()
    assert download(url).read_bytes() == CONTENT
    assert server.requests == [("/model.pth", "bytes=100000-")]
    assert files_below(cache) == ["model.pth"]


@pytest.mark.parametrize(
    "options",
    [{"tags": ['"1"', '"2"']}, {"has_ranges": False}, {"tags": [""]}, {"tags": ['W/"1"']}],
)
def test_other_content_is_downloaded_from_the_start(server, options):
    """Also without ranges, or if nothing says that the content is the same."""
    url = server.serve("/model.pth", CONTENT, breaks=[100_000], **options)
    assert download(url).read_bytes() == CONTENT


def test_a_shorter_file_is_downloaded_from_the_start(server):
    url = server.serve("/model.pth", CONTENT, breaks=[100_000] + [0] * (transfer.ATTEMPTS - 1))
    error_message(url)
    server.answers["/model.pth"].content = b"short"
    assert download(url).read_bytes() == b"short"


def test_a_file_of_unknown_length_is_downloaded(server):
    assert download(server.serve("/a.pth", CONTENT, has_length=False)).read_bytes() == CONTENT


def test_empty_files_are_an_error(server, cache):
    assert "connection was closed" in error_message(server.serve("/a.pth", b""))
    assert files_below(cache) == []


def test_checksums_are_required(server, cache):
    url = server.serve("/model.pth", CONTENT)
    message = error_message(url, sha256="0" * 64)
    assert "SHA256 does not begin with 0000" in message
    assert files_below(cache) == []
    assert "MD5 does not begin with 123456" in error_message(url, md5_prefix="123456")
    digest = hashlib.sha256(CONTENT).hexdigest()
    path = download(url, sha256=digest.upper())
    assert download(url, md5_prefix=hashlib.md5(CONTENT).hexdigest()[:6]) == path


def test_files_that_are_there_are_checked_and_kept(server):
    url = server.serve("/model.pth", CONTENT)
    path = download(url)
    path.write_bytes(b"changed")
    message = error_message(url, sha256=hashlib.sha256(CONTENT).hexdigest())
    assert str(path) in message
    assert path.read_bytes() == b"changed"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth", "4b8939"),
        ("https://dl.fbaipublicfiles.com/detectron2/COCO/a/139/model_final_f10217.pkl", "f10217"),
        ("https://download.pytorch.org/models/resnet50-19c8e357.pth", "19c8e357"),
        ("https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl", None),
        ("https://elsewhere.org/segment_anything/sam_vit_h_4b8939.pth", None),
    ],
)
def test_checksums_in_names_of_known_publishers_are_known(url, expected):
    found = transfer._checksum(transfer.parse_file_address(url), None, None)
    assert (found.prefix if found else None) == expected


@pytest.mark.parametrize(
    ("status", "reason"),
    [(403, "refuses"), (404, "no such file"), (401, "password"), (500, "busy"), (418, "no file")],
)
def test_answers_of_servers_are_one_sentence(server, cache, status, reason):
    url = server.serve("/model.pth", b"<html>", status=status)
    message = error_message(url)
    assert reason in message
    assert f"status {status}" in message
    assert str(cache) in message
    with pytest.raises(DownloadError) as caught:
        download(url)
    assert caught.value.status == status


def test_busy_servers_are_asked_again(server):
    url = server.serve("/model.pth", CONTENT, status=503)
    answer = server.answers["/model.pth"]

    def recover():
        answer.status = 503 if len(server.requests) < 3 else 200

    answer.before = recover
    assert download(url).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_redirects_are_followed_and_counted(server):
    server.serve("/end/other.pth", CONTENT)
    url = server.serve("/a.pth", status=302, headers={"Location": "/end/other.pth"})
    path = download(url)
    assert path.name == "a.pth"
    assert path.read_bytes() == CONTENT
    loop = server.serve("/loop.pth", status=302, headers={"Location": "/loop.pth"})
    assert "redirects" in error_message(loop)
    for i in range(10):
        server.serve(f"/{i}.pth", status=302, headers={"Location": f"/{i + 1}.pth"})
    assert "redirects" in error_message(server.url("/0.pth"))
    assert len(server.requests) < 20


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://a.org/x.pth", "http://a.org/x.pth", "data:,x", "http://u:p@b/x"],
)
def test_redirects_elsewhere_are_refused(server, cache, location):
    url = server.serve("/a.pth", status=302, headers={"Location": location})
    error_message(url)
    assert files_below(cache) == []


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("https://a.org/x", "http://a.org/x", "without encryption"),
        ("https://a.org/x", "http://127.0.0.1/x", "without encryption"),
        ("https://a.org/x", "https://localhost/x", "to this machine"),
        ("https://a.org/x", "https://[::1]/x", "to this machine"),
        ("https://a.org/x", "https://b.org/x", ""),
        ("http://localhost/x", "https://b.org/x", ""),
    ],
)
def test_redirects_keep_encryption_and_stay_off_this_machine(monkeypatch, before, after, reason):
    monkeypatch.setenv("HIPIE_ALLOW_HTTP", "1")
    request = urllib.request.Request(before)
    redirects = transfer._Redirects()
    if not reason:
        assert redirects.redirect_request(request, None, 302, "", {}, after).full_url == after
        return
    with pytest.raises(DownloadError, match=reason):
        redirects.redirect_request(request, None, 302, "", {}, after)


def test_requests_to_this_machine_use_no_proxy(server, monkeypatch):
    url = server.serve("/a.pth", CONTENT)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert download(url).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError(socket.gaierror(-3, "x")), "no network"),
        (urllib.error.URLError(ssl.SSLCertVerificationError("x")), "certificate"),
        (urllib.error.URLError(ConnectionRefusedError(111, "x")), "refused"),
        (TimeoutError("timed out"), "in time"),
    ],
)
def test_failures_of_the_network_are_one_sentence(monkeypatch, cache, error, reason):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", fail)
    message = error_message("https://a.org/model.pth")
    assert reason in message
    assert message.endswith(f"put into {cache}/a.org as model.pth")


def test_slow_servers_are_given_up(server, monkeypatch):
    monkeypatch.setattr(transfer, "MIN_SPEED_SECONDS", 0.0)
    monkeypatch.setattr(transfer, "MIN_SPEED", 10**15)
    assert "in time" in error_message(server.serve("/a.pth", CONTENT))


def test_compressed_answers_are_refused(server):
    url = server.serve("/a.pth", CONTENT, headers={"Content-Encoding": "gzip"})
    assert "not HTTP" in error_message(url)


def test_a_full_disk_is_said_before_and_while_it_is_written(server, cache, monkeypatch):
    url = server.serve("/a.pth", CONTENT)
    usage = namedtuple("usage", "total used free")(10**12, 10**12, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(transfer.shutil, "disk_usage", lambda _folder: usage)
        assert "1 MiB are needed and 0 MiB are free" in error_message(url)
    assert files_below(cache) == []
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal = pytest.importorskip("signal")
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        message = error_message(url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "larger than this file system or user may write" in message
    assert files_below(cache) == []


def test_endless_files_are_given_up(server, cache, monkeypatch):
    monkeypatch.setattr(transfer, "MAX_BYTES", 100_000)
    assert "too many" in error_message(server.serve("/a.pth", CONTENT))
    assert "more than" in error_message(server.serve("/b.pth", CONTENT, has_length=False))
    assert files_below(cache) == []


def test_files_of_a_known_size_are_not_larger(server, cache):
    url = server.serve("/a.pth", CONTENT)
    for address in (url, server.serve("/b.pth", CONTENT, has_length=False)):
        with pytest.raises(DownloadError, match=f"{len(CONTENT) - 1:,}"):
            download(address, max_bytes=len(CONTENT) - 1)
    assert files_below(cache) == []
    assert download(url, max_bytes=len(CONTENT)).read_bytes() == CONTENT


def test_planted_links_are_not_followed(server, cache, tmp_path):
    """At the names of the file, of its lock, and of what an earlier download left."""
    user_file = tmp_path / "user"
    user_file.write_bytes(b"kept")
    url = server.serve("/model.pth", CONTENT)
    folder = cache / f"http+127.0.0.1+{server.http.server_port}"
    folder.mkdir(parents=True)
    identity = transfer._identity({"ETag": '"1"'}, len(CONTENT))  # type: ignore[arg-type]
    left = f".model.pth.{identity}"
    (folder / f"{left}.{'0' * 16}.partial").symlink_to(user_file)
    os.link(user_file, folder / f"{left}.{'1' * 16}.partial")
    os.mkfifo(folder / f"{left}.{'2' * 16}.partial")
    (folder / "model.pth").symlink_to(tmp_path / "absent")
    path = download(url)
    assert path.read_bytes() == CONTENT
    assert not path.is_symlink()
    assert user_file.read_bytes() == b"kept"
    assert not (tmp_path / "absent").exists()
    path.unlink()
    (folder / ".model.pth.lock").unlink()
    (folder / ".model.pth.lock").symlink_to(tmp_path / "absent")
    error_message(url)
    assert not (tmp_path / "absent").exists()


def test_links_do_not_lead_out_of_the_cache(server, cache, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    cache.mkdir()
    (cache / f"http+127.0.0.1+{server.http.server_port}").symlink_to(tmp_path / "elsewhere")
    url = server.serve("/model.pth", CONTENT)
    with pytest.raises(DownloadError, match="a link leads out of the folder"):
        download(url)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_cache_that_cannot_be_created_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="cannot be created .*FVCORE_CACHE names another one"):
        download(server.serve("/model.pth", CONTENT))


def _download(url: str, results: multiprocessing.Queue) -> None:
    results.put(download(url).read_bytes())


def test_of_two_processes_one_downloads(server, cache):
    barrier = multiprocessing.get_context("fork")
    url = server.serve("/model.pth", CONTENT)
    results = barrier.Queue()
    server.answers["/model.pth"].before = lambda: __import__("time").sleep(0.5)
    processes = [barrier.Process(target=_download, args=(url, results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [CONTENT, CONTENT]
    for process in processes:
        process.join(60)
    assert len(server.requests) == 1
    assert files_below(cache) == ["model.pth"]


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_address_is_inside_the_cache_or_refused(host, path):
    for url in (f"https://{host}/{path}", f"https://a.org/{path}", path):
        try:
            place = transfer.parse_file_address(url).cache_path()
        except DownloadError as error:
            assert "\n" not in str(error)
            continue
        relative = place.relative_to(transfer.cache_folder())
        assert not any(part.startswith(".") for part in relative.parts)
        assert Path(os.path.normpath(place)) == place
