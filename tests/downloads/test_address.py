"""Which addresses are downloaded, and where their files are."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from hipie.downloads import DownloadError, add_network_arguments, cache_folder
from hipie.downloads.address import parse_address, parse_file_address


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a.org/x.pth", "--allow-http"),
        ("http://127.0.0.1.evil.org/x.pth", "--allow-http"),
        ("http://localhost.evil.org/x.pth", "--allow-http"),
        ("http://192.168.0.1/x.pth", "--allow-http"),
        ("http://0x7f.1/x.pth", "--allow-http"),
        ("ftp://a.org/x.pth", "only https"),
        ("file:///etc/passwd", "only https"),
        ("//a.org/x.pth", "only https"),
        ("https:///x.pth", "no host"),
        ("https://a b/x.pth", "characters"),
        ("https://a.org/x\n.pth", "characters"),
        ("https://a.org/\x1b[31m.pth", "characters"),
        ("https://a.org/\ud800.pth", "characters"),
        ("https://a.org\\@b.org/x.pth", "characters"),
        ("https://user:secret@a.org/x.pth", "user name"),
        ("http://localhost@evil.org/x.pth", "user name"),
        ("https://a.org:99999/x.pth", "not a valid address"),
        ("https://[::1/x.pth", "not a valid address"),
        ("https://[fe80::1%25eth0]/x.pth", "no host"),
        ("https://a.org/" + "x" * 5000, "at most"),
        ("https://a.org/", "names no file"),
        ("https://a.org/folder/", "names no file"),
        ("https://a.org", "names no file"),
    ],
)
def test_addresses_that_are_refused(url, reason):
    with pytest.raises(DownloadError, match=reason) as caught:
        parse_file_address(url)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    assert "secret" not in message


@pytest.mark.parametrize(
    "path",
    [
        "../../../home/u/.profile",
        "a/../../x",
        "%2e%2e/x",
        "a/%2E%2e/%2e./x",
        "%252e%252e%252fx",
        "..%2f..%2fx",
        "..%5c..%5cx",
        "a/./x",
        "x%00.pth",
        "x%0a.pth",
        "%" + "25" * 40 + "2e%2e/x",
        "a/..",
        "..",
    ],
)
def test_paths_that_leave_their_folder_are_refused(path):
    with pytest.raises(DownloadError):
        parse_file_address(f"https://a.org/{path}")


def test_http_is_for_this_machine_unless_permitted(monkeypatch):
    for host in ("localhost", "127.0.0.1", "127.8.9.1:80", "[::1]:8080"):
        assert parse_address(f"http://{host}/x").is_loopback
    monkeypatch.setenv("HIPIE_ALLOW_HTTP", "0")
    with pytest.raises(DownloadError):
        parse_address("http://a.org/x")
    parser = argparse.ArgumentParser()
    add_network_arguments(parser)
    assert vars(parser.parse_args([])) == {}
    assert os.environ["HIPIE_ALLOW_HTTP"] == "0"
    parser.parse_args(["--allow-http"])
    assert not parse_address("http://a.org/x").is_loopback


def test_files_of_different_addresses_have_different_places(monkeypatch):
    monkeypatch.setenv("HIPIE_ALLOW_HTTP", "1")
    urls = [
        "https://a.org/d/x.pth",
        "http://a.org/d/x.pth",
        "https://a.org:8443/d/x.pth",
        "https://a.org/d/x.pth?v=1",
        "https://a.org/d/x.pth?v=2",
        "https://a.org/D/x.pth",
        "https://http+a.org/d/x.pth",
        "https://a.org/d/" + "x" * 300 + ".pth",
        "https://a.org/d/" + "x" * 301 + ".pth",
    ]
    places = []
    for url in urls:
        try:
            places.append(parse_file_address(url).cache_path())
        except DownloadError:
            assert "http+" in url
    assert len(set(places)) == len(urls) - 1
    assert all(place.suffix == ".pth" and len(place.name) < 200 for place in places)


def test_queries_are_not_shown():
    assert "token" not in str(parse_address("https://a.org/x.pth?token=1"))
    with pytest.raises(DownloadError) as caught:
        parse_file_address("https://a.org/?token=1")
    assert "token" not in str(caught.value)


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "f"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "f"
    monkeypatch.delenv("FVCORE_CACHE")
    assert cache_folder() == tmp_path / "x/hipie"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/hipie"
