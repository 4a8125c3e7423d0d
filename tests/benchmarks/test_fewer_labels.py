"""Table and figure of quality against labelling cost."""

from __future__ import annotations

from PIL import Image

from benchmarks.fewer_labels import SECONDS, draw, table

SEEDS = [{"PQ": 50.0, "AP": 25.0, "AP50": 70.0}, {"PQ": 54.0, "AP": 27.0, "AP50": 70.0}]
ROWS = [
    ("masks", 22.0, SEEDS),
    ("boxes", 2.0, [{"PQ": 30.0, "AP": 12.0, "AP50": 40.0}]),
]


def test_rows_are_means_over_seeds_with_half_their_range():
    lines = table(ROWS).splitlines()
    assert lines[0] == "| kind | hours | PQ | AP | AP50 |"
    assert lines[2] == "| masks | 22.00 | 52.0 ± 2.0 | 26.0 ± 1.0 | 70.0 ± 0.0 |"
    assert lines[3] == "| boxes | 2.00 | 30.0 | 12.0 | 40.0 |"


def test_the_figure_is_drawn(tmp_path):
    draw(ROWS, str(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 400 and len(image.convert("L").getcolors()) > 10


def test_every_kind_has_a_cost():
    assert [*SECONDS] == sorted(SECONDS, key=SECONDS.get, reverse=True)
