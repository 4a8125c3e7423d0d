"""The service as a process on loopback: load, broken clients, signals."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi")

from hipie.cli.main import main
from hipie.errors import MachineError, UsageError
from hipie.listening import listen
from hipie.serve.settings import Limits
from tests.serve.stub_segmenter import png

ROOT = Path(__file__).parents[2]
BOUNDARY = "x" * 20


@contextmanager
def service(*arguments: str, program: tuple[str, ...] = ("tests/serve/stub_service.py",)):
    """A process that serves: (process, host and port)."""
    paths = [str(ROOT), *map(str, ROOT.glob("projects/*/")), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().split()
        assert address, process.stderr.read()
        yield process, urlsplit(address[0]).netloc
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def running():
    with service("0.02") as (process, address):
        wait_until_loaded(address)
        yield process, address


def wait_until_loaded(address: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while get(address, "/healthz")[0] != 200:
        assert time.monotonic() < end
        time.sleep(0.2)


def get(address: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def form(value: int, things: str) -> bytes:
    """Body of a request with an image of a grey value."""
    parts = [
        (f'name="image"; filename="{value}.png"', png(value, 20 + value % 3)),
        ('name="things"', things.encode()),
    ]
    body = b"".join(
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    return body + f"--{BOUNDARY}--\r\n".encode()


def post(address: str, body: bytes) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(address, timeout=60)
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    connection.request("POST", "/segment", body, {"Content-Type": kind})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content


def load(address: str, count: int, workers: int) -> list[float]:
    """Send requests, several at a time, and check every answer; the seconds of each."""

    def one(number: int) -> float:
        value = number % 250 + 1
        start = time.perf_counter()
        status, content = post(address, form(value, f"name {number}"))
        seconds = time.perf_counter() - start
        assert status == 200, content
        (segment,) = content["segments"]
        assert content["image"]["file"] == f"{value}.png"
        assert segment["category"] == f"name {number}"
        assert segment["score"] == pytest.approx(value / 255, abs=1e-4)
        return seconds

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, range(count)))


def resident_bytes(process: subprocess.Popen) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def percentiles(seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=20)
    return f"p50 {1000 * cuts[9]:.0f} ms, p95 {1000 * cuts[18]:.0f} ms"


def test_no_answer_is_lost_or_mixed(running):
    assert len(load(running[1], 24, 8)) == 24


@pytest.mark.slow
def test_two_hundred_requests_leave_the_memory_flat(running):
    process, address = running
    load(address, 50, 8)
    before = resident_bytes(process)
    seconds = load(address, 200, 8)
    growth = resident_bytes(process) - before
    print(f"200 requests, 8 at a time: {percentiles(seconds)}; memory {growth / 1e6:+.1f} MB")
    assert growth < 20e6


def test_more_requests_than_the_queue_has_places_get_429(running):
    """The queue has 12 places."""
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda n: post(running[1], form(9, f"n{n}")), range(40)))
    statuses = {status for status, _ in answers}
    assert statuses == {200, 429}
    for number, (status, content) in enumerate(answers):
        if status == 200:
            assert content["segments"][0]["category"] == f"n{number}"
        else:
            assert "in progress" in content["error"]
    load(running[1], 4, 2)


def test_the_client_of_the_document(running, tmp_path):
    text = (ROOT / "docs/serve.md").read_text(encoding="utf-8")
    code = text.split("<!-- client -->")[1].split("```python\n")[1].split("```")[0]
    names = {}
    exec(compile(code, "docs/serve.md", "exec"), names)
    image, address = tmp_path / "a.png", f"http://{running[1]}"
    image.write_bytes(png(100))
    answer = names["segment"](image, address, things="dog; cat")
    assert [segment["category"] for segment in answer["segments"]] == ["dog", "cat"]
    with pytest.raises(ValueError, match="name at least one class"):
        names["segment"](image, address)


def exchange(address: str, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes, and return all that comes until the service closes the connection."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


HEAD = (
    f"POST /segment HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}"
)


def test_oversized_requests_are_refused_before_they_are_sent(running):
    answer = exchange(running[1], f"{HEAD}\r\nContent-Length: 100000000\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'{"error":"the request has more than 1,000,000 bytes' in answer


def test_slow_requests_end_after_the_upload_timeout(running):
    start = time.monotonic()
    answer = exchange(running[1], f"{HEAD}\r\nContent-Length: 5000\r\n\r\nabc".encode())
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 1.5 < time.monotonic() - start < 20


@pytest.mark.parametrize("start", [b"", b"GET /healthz HTT"])
def test_heads_of_requests_that_do_not_arrive_end_after_the_upload_timeout(running, start):
    begin = time.monotonic()
    answer = exchange(running[1], start)
    assert 1.5 < time.monotonic() - begin < 20
    if start:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert answer.endswith(b'{"error":"the request did not begin within 2 s"}')
    else:
        assert answer == b""


def test_connections_that_are_used_again_have_a_timeout_of_their_own(running):
    """The second request of a connection begins after the time-out of the first one."""
    host, _, port = running[1].partition(":")
    request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for _ in range(2):
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"}"):  # head and body may arrive one after the other
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            time.sleep(2.5)
        connection.sendall(request[:20])
        begin = time.monotonic()
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
        assert 1.5 < time.monotonic() - begin < 20


def test_half_closed_and_meaningless_connections_do_no_harm(running):
    address = running[1]
    body = form(5, "dog")
    head = f"{HEAD}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    exchange(address, head + body, half_close=True)
    exchange(address, head + body[:50], half_close=True)
    answer = exchange(address, b"nonsense\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"error":"the request is not valid HTTP/1.1"}')
    exchange(address, b"", half_close=True)
    load(address, 4, 2)
    _, text = get(address, "/metrics")
    assert b"hipie_requests_in_progress 0" in text and b"hipie_queue_length 0" in text


def test_sigterm_finishes_what_runs_and_ends_with_status_0():
    with service("1.5") as (process, address):
        wait_until_loaded(address)
        answers = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append(post(address, form(n, "dog"))))
            for n in (1, 2)
        ]
        for thread in threads:
            thread.start()
        while b"hipie_requests_in_progress 2" not in get(address, "/metrics")[1]:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert process.wait(30) == 0
        assert [status for status, _ in answers] == [200, 200]
        assert process.stderr.read() == ""
        with pytest.raises(ConnectionError):
            get(address, "/healthz")


@pytest.mark.slow
def test_sigterm_while_the_model_loads():
    with service("0", "600") as (process, address):
        assert get(address, "/healthz")[0] == 503
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_process():
    with service("0", "-1") as (process, _):
        assert process.wait(60) == 1
        assert process.stderr.read() == "stub: weights.pth is cut short\n"


def test_a_port_in_use_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(MachineError, match=f"port {port} of 127.0.0.1 cannot be opened"):
            listen("127.0.0.1", port)
        with pytest.raises(SystemExit) as stop:
            main(["serve", "--port", str(port)])
        assert "the network address is in use; choose another by --port" in stop.value.code


def test_hosts_ports_and_limits_are_checked(tmp_path, monkeypatch, capsys):
    with pytest.raises(UsageError, match="ports are from 0 to 65535"):
        listen("127.0.0.1", 70_000)
    with pytest.raises(UsageError, match="no such host"):
        listen("no.such.host.invalid", 0)
    with pytest.raises(UsageError, match="--max-queue has to be at least 1: 0"):
        Limits(queue=0)
    empty = tmp_path / "token"
    for arguments, message in (
        (["--token-file", str(tmp_path / "none")], "cannot be read"),
        (["--token-file", str(empty)], "is empty"),
        (["--max-names", "0"], "--max-names has to be at least 1"),
        (["--model", "a", "--weights", "b"], "has a weights"),
    ):
        empty.write_text("\n")
        with pytest.raises(SystemExit) as stop:
            main(["serve", *arguments])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    monkeypatch.setenv("HIPIE_SERVE_TOKEN", "two words")
    with pytest.raises(SystemExit):
        main(["serve"])
    assert "without spaces" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_serves_the_packaged_model(tmp_path):
    """Its answer is that of `hipie segment`."""
    image = ROOT / "hipie/examples/photographs/dog.jpg"
    given = ["--things", "dog", "--stuff", "grass", "--device", "cpu"]
    assert main(["segment", str(image), *given, "--output", str(tmp_path)]) == 0
    expected = json.loads((tmp_path / "dog.json").read_text())
    parts = [
        ('name="image"; filename="dog.jpg"', image.read_bytes()),
        ('name="things"', b"dog"),
        ('name="stuff"', b"grass"),
    ]
    body = b"".join(
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    body += f"--{BOUNDARY}--\r\n".encode()
    arguments = ("serve", "--port", "0", "--device", "cpu")
    with service(*arguments, program=("-m", "hipie")) as (process, address):
        wait_until_loaded(address, 300)
        status, content = post(address, body)
        assert status == 200, content
        assert content["segments"] == expected["segments"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
