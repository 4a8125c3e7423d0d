"""`hipie demo` and `demo.py`, with a stand-in for the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from hipie import model_zoo
from hipie.cli import demo, photograph_demo
from hipie.cli.demo import SEED, PictureBookDemo
from hipie.cli.demo_files import DemoFiles
from hipie.cli.main import main
from hipie.cli.photograph_demo import (
    FOLDER,
    PHOTO_CONFIG,
    PHOTO_GROUP_CONFIG,
    PHOTOGRAPHS,
    PhotographDemo,
    describe_figures,
)
from hipie.data.image_io import read_image
from hipie.model_zoo.model_card import CardFigure, read_figures
from hipie.segmentation import Segment, Segmentation

ROOT = Path(__file__).parents[1]


class StubSegmenter:
    """Segments a box in the middle of every image."""

    cfg = SimpleNamespace(INPUT=SimpleNamespace(MAX_PIXELS=1_000_000))

    def segment(self, image, things, stuff=(), parts=None):
        assert not set(things) & set(stuff)
        name = things[0] if isinstance(things[0], str) else things[0][0]
        return Segmentation(image, [Segment(name, "thing", self.middle(image), 0.5)])

    def refer(self, image, expression):
        text = expression if isinstance(expression, str) else expression[0]
        return Segmentation(image, [Segment(text, "expression", self.middle(image), 0.5)])

    def refer_group(self, images, expression):
        return [self.refer(image, expression) for image in images]

    @staticmethod
    def middle(image) -> np.ndarray:
        height, width = image.shape[:2]
        mask = np.zeros((height, width), bool)
        mask[height // 4 : height // 2, width // 4 : width // 2] = True
        return mask


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    files = DemoFiles(folder)
    PhotographDemo(StubSegmenter(), files).run()
    PictureBookDemo(StubSegmenter(), files).run()
    files.write_results()
    return folder


def test_at_least_eight_drawings_can_be_opened(output: Path) -> None:
    drawings = list(output.glob("*.png"))
    assert len(drawings) >= 8
    for drawing in drawings:
        assert min(Image.open(drawing).size) > 100


def test_results_hold_every_mask(output: Path) -> None:
    content = json.loads((output / "results.json").read_text())
    assert content["settings"]["program"] == "hipie demo"
    assert {path.stem for path in output.glob("*.png")} == {
        entry["name"] for entry in content["images"]
    }
    names = {*PhotographDemo.NAMES, *PictureBookDemo.NAMES, "results.json"}
    assert {path.name for path in output.iterdir()} == names
    for entry in content["images"]:
        assert entry["title"]
        for converted in entry.get("images", [entry]):
            height, width = converted["image"]["height"], converted["image"]["width"]
            for segment in converted["segments"]:
                mask = coco_mask.decode(segment["segmentation"])
                assert mask.shape == (height, width)
                assert mask.sum() == segment["area"]


def test_photographs_lead_with_things_stuff_parts_and_a_group(output: Path) -> None:
    names = [entry["name"] for entry in json.loads((output / "results.json").read_text())["images"]]
    first_page = names.index("panoptic_0")
    assert first_page == len(PhotographDemo.NAMES) >= 8
    assert all(name.startswith("photo_") for name in names[:first_page])
    for given in ("stuff", "parts", "expressions"):
        assert any(getattr(photograph, given) for photograph in PHOTOGRAPHS)
    assert names[first_page - 1] == "photo_group"


class UndrawnFiles(DemoFiles):
    """Collects titles without drawing."""

    def save(self, name, result, title):
        self.results.append({"name": name, "title": title})

    def save_group(self, name, results, expression, title):
        self.results.append({"name": name, "title": title})


@pytest.mark.parametrize("is_trained", [False, True])
def test_titles_of_photographs_name_the_limit_of_the_weights(tmp_path, is_trained: bool) -> None:
    files = UndrawnFiles(tmp_path)
    PhotographDemo(StubSegmenter(), files, is_trained=is_trained).run()
    titles = [entry["title"] for entry in files.results if entry["name"] != "photo_group"]
    assert all(("not trained on photographs" in title) != is_trained for title in titles)


def test_photographs_of_the_package_are_small_and_have_a_source() -> None:
    """At least six, at most 512 pixels and 80 kB, without metadata, each with its licence."""
    files = sorted(FOLDER.glob("*.jpg"))
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (FOLDER / "SOURCES.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    licences = {row[0].strip("`"): row[4] for row in rows if row[0].endswith(".jpg`")}
    assert len(files) >= 6 and {file.name for file in files} == set(licences)
    assert all("public domain" in licence or "CC0" in licence for licence in licences.values())
    demonstrated = {f"{photo.name}.jpg" for photo in PHOTOGRAPHS if photo.is_packaged}
    assert demonstrated == set(licences)
    for file in files:
        image = Image.open(file)
        assert max(image.size) <= 512 and file.stat().st_size < 80_000
        assert not image.getexif() and image.mode == "RGB"


def test_photographs_are_left_out_without_scikit_image(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(photograph_demo, "find_spec", lambda _: None)
    files = UndrawnFiles(tmp_path)
    PhotographDemo(StubSegmenter(), files).run()
    assert "astronaut: left out" in capsys.readouterr().out
    names = {entry["name"] for entry in files.results}
    assert "photo_cow" in names and "photo_astronaut" not in names


def test_photo_model_is_taken_when_the_package_contains_it(tmp_path, monkeypatch, capsys) -> None:
    """Its figures are printed first; a model of the arguments is taken for everything."""
    built: list[str | None] = []

    def build(args):
        built.append(args.config_file)
        args.config_file = args.config_file or "nano/hipie_nano_picturebook.yaml"
        args.device = "cpu"
        return StubSegmenter()

    monkeypatch.setattr(demo, "build_segmenter", build)
    monkeypatch.setattr(demo, "DemoFiles", UndrawnFiles)
    monkeypatch.setattr(demo, "describe_figures", lambda config: f"figures of {config}")
    for present, more, expected in (
        ([PHOTO_CONFIG], [], [demo.PICTURE_BOOK_CONFIG, PHOTO_CONFIG]),
        (
            [PHOTO_CONFIG, PHOTO_GROUP_CONFIG],
            [],
            [demo.PICTURE_BOOK_CONFIG, PHOTO_CONFIG, PHOTO_GROUP_CONFIG],
        ),
        ([], [], [demo.PICTURE_BOOK_CONFIG]),
        ([PHOTO_CONFIG], ["--config-file", "mine.yaml"], ["mine.yaml"]),
    ):
        built.clear()
        packaged = {name: name for name in present}
        monkeypatch.setattr(demo, "packaged_config", packaged.get)
        folder = tmp_path / f"{len(present)}{len(more)}"
        assert main(["demo", "--examples", "--output", str(folder), *more]) == 0
        assert built == expected
        lines = capsys.readouterr().out.splitlines()
        assert (lines[0] == f"figures of {PHOTO_CONFIG}") == bool(expected[1:])
        results = json.loads((folder / "results.json").read_text())
        assert results["settings"].get("photographs") == (PHOTO_CONFIG if expected[1:] else None)


def test_figures_are_those_of_the_model_card() -> None:
    card = (model_zoo.WEIGHTS / "README.md").read_text()
    (row,) = [line for line in card.splitlines() if line.startswith("| PQ | `picturebook_val_p")]
    line = describe_figures("nano/hipie_nano_picturebook.yaml")
    assert line.startswith("hipie-nano-picturebook, by its model card: PQ ")
    assert f"PQ {row.split('|')[3].strip()}, " in line


def test_figures_are_read_from_the_card_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "cards.md").write_text(
        "# Model card: first\n\n| measure | key | result |\n|---|---|---|\n| PQ | `a.PQ` | 1.5 |\n"
        "# Model card: second\n\n| mask AP | `b.segm.AP` | 20.0 (18 to 22) |\n"
        "| a text | no key | 3 |\n"
    )
    assert read_figures(tmp_path / "first.pth") == [CardFigure("PQ", "a.PQ", "1.5")]
    second = [CardFigure("mask AP", "b.segm.AP", "20.0 (18 to 22)")]
    assert read_figures(tmp_path / "second.pth") == second
    assert read_figures(tmp_path / "third.pth") == []


def test_pages_differ_from_those_of_training() -> None:
    from detectron2.config import get_cfg

    from hipie.config import add_hipie_config

    cfg = get_cfg()
    add_hipie_config(cfg)
    assert cfg.PICTUREBOOK.SEED != SEED


def test_program_without_class_names_names_the_arguments(tmp_path: Path) -> None:
    command = [sys.executable, "demo.py", "--input", "image.jpg", "--output", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "--things" in ended.stderr.splitlines()[-1]


@pytest.fixture
def run_on_three_images(tmp_path: Path, monkeypatch):
    """`hipie demo` on three images, the second broken, with a stub that reads files."""

    class FileSegmenter(StubSegmenter):
        model = SimpleNamespace(tasks={"referring"})

        def set_image(self, image):
            self.pixels = read_image(image)

        def refer(self, image=None, expressions=()):
            pixels = self.pixels if image is None else read_image(image)
            (expression,) = [expressions] if isinstance(expressions, str) else expressions
            return super().refer(pixels, expression)

    monkeypatch.setattr(demo, "build_segmenter", lambda _: FileSegmenter())
    names = [str(tmp_path / f"{number}.png") for number in range(3)]
    for name in names:
        Image.new("RGB", (60, 40)).save(name)
    Path(names[1]).write_bytes(b"no image")

    def run(*more: str, tasks=("referring",)) -> dict:
        FileSegmenter.model.tasks = set(tasks)
        given = ["--input", *names, "--expression", "the dog", "--output", str(tmp_path / "out")]
        try:
            assert main(["demo", *given, *more]) == 0
        finally:
            results = json.loads((tmp_path / "out/results.json").read_text())
        return {Path(entry["image"]["file"]).name: entry for entry in results["images"]}

    return run


def test_broken_image_is_named_and_earlier_results_are_kept(
    run_on_three_images, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=r"^hipie demo: .*1\.png"):
        run_on_three_images()
    results = json.loads((tmp_path / "out/results.json").read_text())
    (entry, _) = results["images"]
    assert entry["image"] == {"file": str(tmp_path / "0.png"), "width": 60, "height": 40}
    assert entry["expressions"][0]["area"]


def test_broken_image_can_be_skipped(run_on_three_images) -> None:
    results = run_on_three_images("--skip-broken")
    assert list(results) == ["0.png", "2.png"]
    assert all(set(entry) == {"image", "expressions", "group"} for entry in results.values())


def test_group_results_replace_single_image_results(run_on_three_images) -> None:
    results = run_on_three_images("--skip-broken", tasks=("referring", "group"))
    for entries in results.values():
        assert set(entries) == {"image", "group"} and entries["group"]["the dog"]["shown"]
        assert len(entries["group"]["the dog"]["segments"]) == 1


def test_images_of_one_name_have_their_own_drawings(tmp_path: Path, monkeypatch) -> None:
    class Segmenter(StubSegmenter):
        def set_image(self, image):
            self.pixels = read_image(image)

        def segment(self, things, **names):
            return super().segment(self.pixels, things)

    monkeypatch.setattr(demo, "build_segmenter", lambda _: Segmenter())
    names = [str(tmp_path / folder / "1.png") for folder in "ab"]
    for name in names:
        Path(name).parent.mkdir()
        Image.new("RGB", (60, 40)).save(name)
    folder = tmp_path / "out"
    assert main(["demo", "--input", *names, "--things", "dog", "--output", str(folder)]) == 0
    written = {"1_segments.png", "1_2_segments.png", "results.json"}
    assert {path.name for path in folder.iterdir()} == written


@pytest.mark.parametrize("name", ["1_segments.png", "results.json"])
def test_files_of_the_user_are_kept(tmp_path: Path, monkeypatch, capsys, name: str) -> None:
    monkeypatch.setattr(demo, "build_segmenter", lambda _: pytest.fail("checked too late"))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 40)).save("1.png")
    Image.new("RGB", (60, 40)).save("1_segments.png")
    Path("results.json").write_text("{}")
    before = Path(name).read_bytes()
    inputs = ["1.png", *(["1_segments.png"] if name.endswith("png") else [])]
    overwrite = ["--overwrite"] if name.endswith("png") else []  # inputs are never overwritten
    if name == "results.json":
        Path("1_segments.png").unlink()
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--input", *inputs, "--things", "dog", "--output", ".", *overwrite])
    assert stop.value.code == 2
    assert name in capsys.readouterr().err
    assert Path(name).read_bytes() == before
