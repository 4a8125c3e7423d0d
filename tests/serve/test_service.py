"""Endpoints of the service, called in this process."""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from hipie import Segmenter
from hipie.errors import InputError
from hipie.serve.errors import RequestError
from hipie.serve.model_loading import LoadedModel
from hipie.serve.results import prefers_png
from hipie.serve.service import create_app
from hipie.serve.settings import Limits
from tests.serve.stub_segmenter import StubSegmenter, png

TINY = Path(__file__).parents[1] / "tiny.yaml"


def client_of(segmenter, limits: Limits | None = None, token: str = "") -> TestClient:
    """A client of the application with a loaded model."""
    model = LoadedModel("stub", lambda: segmenter)
    model.start()
    model.wait()
    return TestClient(create_app(model, limits or Limits(), token))


@pytest.fixture
def stub():
    return StubSegmenter()


@pytest.fixture
def client(stub):
    with client_of(stub) as client:
        yield client


def wait_for(is_true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_segments_are_those_that_the_command_writes(client):
    given = {"things": "dog; cat", "min_score": "0.25"}
    answer = client.post("/segment", files={"image": ("a.png", png(), "image/png")}, data=given)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert content["image"] == {"file": "a.png", "width": 32, "height": 24}
    assert content["settings"]["things"] == "dog; cat"
    assert content["settings"]["min_score"] == 0.25
    assert content["settings"]["program"] == "hipie serve"
    assert [segment["category"] for segment in content["segments"]] == ["dog", "cat"]
    mask = coco_mask.decode(content["segments"][0]["segmentation"])
    assert mask[:12].all() and not mask[12:].any()


@pytest.mark.parametrize("things", ["dog; cat", ["dog", ["cat", "kitten"]]])
def test_json_requests_have_images_in_base64(client, things):
    answer = client.post("/segment", json={"image": encoded(png()), "things": things})
    assert answer.status_code == 200, answer.text
    assert answer.json()["settings"]["things"] == things
    assert answer.json()["image"]["file"] is None


def test_expressions_are_repeatable_in_both_forms(client):
    files = {"image": ("a.png", png(), "image/png")}
    form = client.post("/refer", files=files, data={"expression": ["left", "right"]}).json()
    body = client.post("/refer", json={"image": encoded(png()), "expression": ["left", "right"]})
    one = client.post("/refer", json={"image": encoded(png()), "expression": "left"})
    assert [segment["category"] for segment in form["segments"]] == ["left", "right"]
    assert body.json()["segments"] == form["segments"]
    assert one.json()["segments"] == form["segments"][:1]


def test_groups_have_an_entry_for_every_image(client):
    files = [("images", (f"{value}.png", png(value), "image/png")) for value in (10, 60, 250)]
    answer = client.post("/group", files=files, data={"expression": "the cup"}).json()
    assert [entry["image"]["file"] for entry in answer["images"]] == ["10.png", "60.png", "250.png"]
    assert all(entry["shown"] for entry in answer["images"])
    scores = [entry["segments"][0]["score"] for entry in answer["images"]]
    assert scores == pytest.approx([10 / 255, 60 / 255, 250 / 255], abs=1e-4)


def test_prompts_are_points_of_one_object_or_boxes_of_several(client):
    def labels(**given):
        answer = client.post("/prompt", json={"image": encoded(png()), **given})
        assert answer.status_code == 200, answer.text
        return [segment["category"] for segment in answer.json()["segments"]]

    (one,) = labels(points=[[3, 4], [5, 6, 0], [7, 8, 1]], boxes=[[0, 0, 9, 9]])
    assert one == str(
        {"inside": [(3, 4), (7, 8)], "outside": [(5, 6)], "box": (0, 0, 9, 9)}
    ).replace("3, 4", "3.0, 4.0").replace("7, 8", "7.0, 8.0").replace("5, 6", "5.0, 6.0").replace(
        "(0, 0, 9, 9)", "(0.0, 0.0, 9.0, 9.0)"
    )
    assert len(labels(boxes=[[0, 0, 5, 5], [3, 3, 9, 9]])) == 2
    files = {"image": ("a.png", png(), "image/png")}
    answer = client.post("/prompt", files=files, data={"points": "[[3, 4]]"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("image/png", True),
        ("image/png, application/json;q=0.5", True),
        ("application/json, image/png;q=0.9", False),
        ("image/*;q=0.9, */*;q=0.1", True),
        ("*/*", False),
        ("", False),
        ("image/png;q=nonsense", False),
    ],
)
def test_the_accept_header_chooses_the_form(client, accept, expected):
    assert prefers_png(accept) is expected
    answer = client.post(
        "/segment",
        json={"image": encoded(png()), "things": "dog"},
        headers={"Accept": accept},
    )
    if expected:
        assert Image.open(io.BytesIO(answer.content)).format == "PNG"
    else:
        assert answer.json()["segments"]


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes with many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/segment", {"image": "%%%", "things": "a"}, 422, "image is not valid base64"),
        ("/segment", {"image": 3, "things": "a"}, 422, "image has to be an image in base64"),
        ("/segment", {"image": "", "things": "a"}, 422, "empty file"),
        ("/segment", {"image": encoded(b"text"), "things": "a"}, 422, "not an image"),
        ("/segment", {"image": encoded(png()[:60]), "things": "a"}, 422, "damaged or cut short"),
        ("/segment", {"things": "a"}, 422, 'the field "image" is missing'),
        ("/segment", {"image": encoded(png())}, 422, "name at least one class"),
        ("/segment", {"image": encoded(png()), "thing": "a"}, 422, 'no field "thing"; the fields'),
        ("/segment", {"image": encoded(png()), "things": [[["a"]]]}, 422, "things: "),
        ("/segment", {"image": encoded(png()), "things": "a", "min_score": 2}, 422, "min_score: "),
        ("/segment", {"image": encoded(png()), "things": "a", "parts": "b"}, 422, "whole: part"),
        ("/refer", {"image": encoded(png()), "expression": []}, 422, "expression: "),
        ("/refer", {"image": encoded(png()), "expression": [3]}, 422, "expression: "),
        ("/group", {"images": [], "expression": "a"}, 422, "images: "),
        ("/prompt", {"image": encoded(png())}, 422, "give points or boxes"),
        ("/prompt", {"image": encoded(png()), "points": "[["}, 422, "points: this is not valid"),
        ("/prompt", {"image": encoded(png()), "points": [[1, 2, 3]]}, 422, "points: "),
        (
            "/prompt",
            {"image": encoded(png()), "points": [[1, 2]], "boxes": [[0, 0, 1, 1]] * 2},
            422,
            "points belong to one object",
        ),
    ],
)
def test_unusable_requests_are_refused_in_one_sentence(client, stub, path, body, status, message):
    answer = client.post(path, json=body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert message in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert stub.calls == 0


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"image": NaN}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"image": "a", "min_score": 1' + b"0" * 5000 + b"}", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"nonsense", "multipart/form-data; boundary=x", 400),
        (b"nonsense", "multipart/form-data", 400),
        (b"--x\r\nno header\r\n\r\n", "multipart/form-data; boundary=x", 400),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b"a", "", 415),
    ],
)
def test_malformed_bodies_are_refused(client, content, kind, status):
    answer = client.post("/segment", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]


def test_form_fields_are_checked(client):
    image = ("image", ("a.png", png(), "image/png"))
    for files, data, message in (
        ([image, image], {"things": "a"}, '"image" is given twice'),
        ([("things", ("b.txt", b"a", "text/plain")), image], {}, '"things" is no file'),
        ([("x", ("b.txt", b"a", "text/plain")), image], {}, '"x" is no file'),
        ([("images", ("b.txt", b"a", "text/plain"))], {"image": "a"}, "-F image=@FILE"),
    ):
        answer = client.post("/segment", files=files, data=data)
        assert answer.status_code == 422, answer.text
        assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("side", "message"),
    [(20_000, "the image has too many pixels"), (6_000, "6000x6000 are too many")],
)
def test_a_decompression_bomb_is_refused_before_it_is_decoded(client, monkeypatch, side, message):
    decoded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self, *_: decoded.append(self.size))
    data = bomb(side, side)
    assert len(data) < 5000
    answer = client.post("/segment", json={"image": encoded(data), "things": "a"})
    assert answer.status_code == 413
    assert answer.json()["error"].startswith(f"the image: {message}")
    assert decoded == []


def test_numbers_of_names_images_and_prompts_are_limited(stub):
    limits = Limits(names=10, expressions=3, images=2, prompts=2)
    image = encoded(png())
    with client_of(stub, limits) as client:
        for path, body in (
            ("/segment", {"image": image, "things": "; ".join(f"n{i}" for i in range(11))}),
            ("/segment", {"image": image, "things": [f"n{i}" for i in range(11)]}),
            ("/segment", {"image": image, "parts": {"w": [f"n{i}" for i in range(11)]}}),
            ("/segment", {"image": image, "stuff": "a, b, c, d, e, f, g, h, i, j, k"}),
            ("/refer", {"image": image, "expression": ["a"] * 4}),
            ("/group", {"images": [image] * 3, "expression": "a"}),
            ("/prompt", {"image": image, "boxes": [[0, 0, 2, 2]] * 3}),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code == 422, answer.text
            assert "are accepted (--max-" in answer.json()["error"]
        nested = {"w": {}}
        for _ in range(20):
            nested = {"w": nested}
        answer = client.post("/segment", json={"image": image, "parts": nested})
        assert "levels deep" in answer.json()["error"]
    assert stub.calls == 0


def test_bodies_are_limited_with_and_without_a_length(stub):
    with client_of(stub, Limits(body_bytes=1000)) as client:
        declared = client.post("/segment", json={"image": "a" * 2000})
        chunks = (b"a" * 100 for _ in range(20))
        kind = {"Content-Type": "application/json"}
        streamed = client.post("/segment", content=chunks, headers=kind)
        for answer in (declared, streamed):
            assert answer.status_code == 413
            assert "more than 1,000 bytes" in answer.json()["error"]


def test_refusals_of_the_framework_have_the_same_form(client):
    unknown, method = client.get("/nowhere"), client.get("/segment")
    assert (unknown.status_code, method.status_code) == (404, 405)
    assert unknown.json() == {"error": "there is no /nowhere; see /docs"}
    assert method.json() == {"error": "/segment does not accept GET"}
    assert method.headers["allow"] == "POST"


def test_a_bug_is_one_sentence_and_the_service_goes_on(client, capsys):
    body = {"image": encoded(png()), "things": "bug"}
    answer = client.post("/segment", json=body)
    assert answer.status_code == 500
    assert "this is a bug of the program (ZeroDivisionError)" in answer.json()["error"]
    assert "hipie serve: this is a bug" in capsys.readouterr().err
    assert client.post("/segment", json={**body, "things": "dog"}).status_code == 200


def test_the_token_is_needed_but_for_the_health_check(stub):
    with client_of(stub, token="s3cret") as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
            answer = client.get("/models", headers=headers)
            assert answer.status_code == 401 and list(answer.json()) == ["error"]
            assert answer.headers["www-authenticate"] == "Bearer"
            assert client.post("/segment", headers=headers).status_code == 401
        assert client.get("/nowhere").status_code == 401
        assert client.get("/healthz").status_code == 200
        given = {"Authorization": "bearer s3cret"}
        assert client.get("/models", headers=given).status_code == 200


def test_a_model_that_loads_answers_503_and_one_that_failed_says_why():
    ready = threading.Event()
    slow = LoadedModel("slow", lambda: ready.wait() and StubSegmenter())
    slow.start()
    with TestClient(create_app(slow, Limits())) as client:
        for answer in (client.get("/healthz"), client.post("/segment", json={})):
            assert answer.status_code == 503
            assert answer.json() == {"error": "the model slow is loading"}
        assert "hipie_model_loaded 0" in client.get("/metrics").text
        ready.set()
        slow.wait()
        assert client.get("/healthz").json() == {"status": "ok", "model": "slow"}
        assert "hipie_model_loaded 1" in client.get("/metrics").text

    def fail():
        raise InputError("weights.pth is cut short")

    told = []
    broken = LoadedModel("broken", fail, lambda: told.append(True))
    broken.start()
    broken.wait()
    assert told == [True]
    with pytest.raises(RequestError, match="could not be loaded: weights.pth is cut short"):
        broken.get()


def test_a_result_that_takes_too_long_is_refused(stub):
    stub.seconds = 0.5
    with client_of(stub, Limits(timeout=1)) as client:
        stub.seconds = 1.5
        answer = client.post("/segment", json={"image": encoded(png()), "things": "a"})
        assert answer.status_code == 503
        assert answer.json()["error"] == "the result was not ready within 1 s"
        stub.seconds = 0.0
        answer = client.post("/segment", json={"image": encoded(png()), "things": "a"})
        assert answer.status_code == 200


def test_requests_beyond_the_queue_get_429(stub):
    stub.gate.clear()
    with client_of(stub, Limits(queue=2)) as client:
        statuses = []

        def post() -> None:
            body = {"image": encoded(png()), "things": "a"}
            statuses.append(client.post("/segment", json=body))

        threads = [threading.Thread(target=post) for _ in range(5)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(statuses) == 3)
        stub.gate.set()
        for thread in threads:
            thread.join()
        assert sorted(answer.status_code for answer in statuses) == [200, 200, 429, 429, 429]
        refused = next(answer for answer in statuses if answer.status_code == 429)
        assert "2 requests in progress" in refused.json()["error"]
        assert refused.headers["retry-after"] == "1"


BODIES = {
    "/segment": lambda value: {"things": f"n{value}"},
    "/refer": lambda value: {"expression": f"n{value}"},
    "/prompt": lambda value: {"points": [[value, 1]]},
}


@pytest.mark.parametrize("path", BODIES)
def test_requests_of_one_size_run_together(stub, path):
    """Three images of one size wait while a first one runs; one of another size is alone."""
    with client_of(stub, Limits(batch=4)) as client:
        stub.gate.clear()
        answers = {}

        def post(value: int, height: int) -> None:
            body = {"image": encoded(png(value, height)), **BODIES[path](value)}
            answers[value] = client.post(path, json=body).json()["segments"][0]

        first = threading.Thread(target=post, args=(1, 20))
        first.start()
        assert stub.running.wait(60)
        others = [
            threading.Thread(target=post, args=(value, 30 if value == 4 else 24))
            for value in (2, 3, 4, 5)
        ]
        for thread in others:
            thread.start()
        wait_for(lambda: "hipie_queue_length 4\n" in client.get("/metrics").text)
        stub.gate.set()
        for thread in (first, *others):
            thread.join()
        assert stub.batches == [3]
        for value, segment in answers.items():
            expected = f"[({value}.0, 1.0)]" if path == "/prompt" else f"n{value}"
            assert expected in segment["category"]
            assert segment["score"] == pytest.approx(value / 255, abs=1e-4)
        text = client.get("/metrics").text
        assert 'hipie_batch_size_bucket{le="1"} 2' in text
        assert 'hipie_batch_size_bucket{le="4"} 3' in text
        assert f'hipie_requests_total{{path="{path}",status="200"}} 5' in text
        assert f'hipie_request_seconds_count{{path="{path}"}} 5' in text


@pytest.mark.parametrize("compares", [False, True])
def test_equal_images_of_a_group_share_a_pass_unless_the_model_compares_them(stub, compares):
    """Six images of one size in passes of four at most; one of another size is alone."""
    if compares:
        stub.model.tasks |= {"group"}
    sizes = [24, 24, 30, 24, 24, 24, 24]
    images = [encoded(png(10 * number, size)) for number, size in enumerate(sizes, 1)]
    with client_of(stub, Limits(batch=4)) as client:
        answer = client.post("/group", json={"images": images, "expression": "the cup"}).json()
    assert stub.batches == ([] if compares else [4, 2])
    scores = [entry["segments"][0]["score"] for entry in answer["images"]]
    assert scores == pytest.approx([10 * number / 255 for number in range(1, 8)], abs=1e-4)


def test_paths_that_do_not_exist_share_one_series(client):
    for number in range(3):
        client.get(f"/nowhere/{number}")
    text = client.get("/metrics").text
    assert 'hipie_requests_total{path="other",status="404"} 3' in text
    assert "nowhere" not in text


def test_the_description_and_its_page_need_no_other_host(client):
    description = client.get("/openapi.json").json()
    assert {"/segment", "/refer", "/group", "/prompt", "/models", "/healthz", "/metrics"} == set(
        description["paths"]
    )
    content = description["paths"]["/group"]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]
    assert form["required"] == ["images", "expression"]
    assert form["properties"]["images"]["items"]["format"] == "binary"
    assert (
        content["application/json"]["schema"]["properties"]["images"]["items"]["type"] == "string"
    )
    page = client.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "://" not in page.text and "<script" not in page.text
    assert "POST /segment" in page.text and "min_score" in page.text


def test_models_are_those_of_the_table(client):
    answer = client.get("/models").json()
    assert answer["loaded"]["name"] == "stub"
    assert answer["loaded"]["tasks"] == ["interactive", "referring", "universal"]
    names = {entry["name"]: entry for entry in answer["models"]}
    assert names["hipie-nano-picturebook"]["packaged"] is True
    assert names["sam-vit-b"]["segments"] is False


@pytest.fixture(scope="module")
def tiny_segmenter(tiny_text, tiny_weights):
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.OBJECT_MASK_THRESHOLD", "0.0"]
    opts += ["MODEL.HIPIE.HIDDEN_DIM", "64", "MODEL.HIPIE.OVERLAP_THRESHOLD", "0.0"]
    return Segmenter.from_config(TINY, tiny_weights, "cpu", opts)


@pytest.mark.parametrize("path", ["/segment", "/refer"])
def test_a_model_answers_as_the_segmenter_does(tiny_segmenter, path):
    """Also in a batch, whose features are computed together."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(3):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(file, "PNG")
        images.append(file.getvalue())
    names = ["dog; car", "cat", "sheep; horse; cow"]
    if path == "/segment":
        bodies = [{"things": things, "stuff": "grass"} for things in names]
        call = tiny_segmenter.segment
    else:
        bodies = [{"expressions": things.split("; ")} for things in names]
        call = tiny_segmenter.refer
    expected = [
        call(image, **body).to_dict()["segments"]
        for image, body in zip(images, bodies, strict=True)
    ]
    assert any(expected)
    with client_of(tiny_segmenter) as client:
        answers = [None] * 3

        def post(number: int) -> None:
            body = {"image": encoded(images[number]), **bodies[number]}
            if "expressions" in body:
                body["expression"] = body.pop("expressions")
            answers[number] = client.post(path, json=body).json()["segments"]

        post(0)
        assert answers[0] == expected[0]
        lock = tiny_segmenter._lock
        with lock:  # the first waits in the model, so that the others gather behind it
            threads = [threading.Thread(target=post, args=(number,)) for number in (0, 1, 2)]
            for thread in threads:
                thread.start()
                time.sleep(0.3)
        for thread in threads:
            thread.join()
        text = client.get("/metrics").text
        assert 'hipie_batch_size_bucket{le="1"} 2' in text
        assert 'hipie_batch_size_bucket{le="2"} 3' in text
    for answer, result in zip(answers, expected, strict=True):
        assert [segment["category"] for segment in answer] == [s["category"] for s in result]
        assert json.dumps([s["bbox"] for s in answer]) == json.dumps([s["bbox"] for s in result])
        scores = [segment["score"] for segment in result]
        assert [segment["score"] for segment in answer] == pytest.approx(scores, abs=1e-3)
        for one, other in zip(answer, result, strict=True):
            overlap = coco_mask.iou([one["segmentation"]], [other["segmentation"]], [0])
            assert overlap[0][0] > 0.99
