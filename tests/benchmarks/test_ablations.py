"""Tables of the ablations: claims, sections of the document, figures, and runs that go on."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("grser")
pytest.importorskip("refersam")

from benchmarks import ablations, arms, grser_ablations


@pytest.mark.parametrize("name", ablations.TABLES)
def test_claims_are_about_rows_and_metrics_of_their_table(name: str) -> None:
    program = ablations.TABLES[name].program
    options = program.parse([])
    assert options.arms == list(program.ARMS) and "full" in options.arms
    for claim in ablations.TABLES[name].claims:
        assert claim.better != claim.worse
        for arm, metric in (claim.better, claim.worse):
            assert arm in program.ARMS and metric in list(program.METRICS)


def test_verdict_of_three_seeds() -> None:
    assert ablations.verdict([3.0, 4.0, 5.0], [1.0, 2.0, 2.9]) == "seen here"
    assert ablations.verdict([1.0, 2.0, 2.9], [3.0, 4.0, 5.0]) == "not seen"
    assert ablations.verdict([1.0, 4.0, 5.0], [0.0, 0.5, 2.0]) == "within the spread"
    assert ablations.verdict([3.0, 3.0, 3.0], [3.0, 3.0, 3.0]) == "within the spread"
    assert ablations.verdict([3.0, 4.0], [1.0, 2.0, 2.9]) == "too few seeds"


def test_three_seeds_without_effect_are_in_order_once_in_twenty() -> None:
    """All ways to deal six different values to two rows."""
    verdicts = []
    for first in combinations(range(6), 3):
        second = [value for value in range(6) if value not in first]
        verdicts.append(ablations.verdict([*map(float, first)], [*map(float, second)]))
    assert len(verdicts) == 20
    assert verdicts.count("seen here") == verdicts.count("not seen") == 1


def stored(tmp_path, arm: str, seed: int, value: float) -> None:
    options = grser_ablations.parse(["--steps", "7", "--output", str(tmp_path / "runs")])
    folder = grser_ablations.folder(arm, seed, options)
    folder.mkdir(parents=True)
    metrics = {name: value + i for i, name in enumerate(grser_ablations.METRICS.values())}
    if arm == "LAVT alone":
        metrics = {n: v for n, v in metrics.items() if not n.startswith("pointing")}
    results = {grser_ablations.DATA: {grser_ablations.TASK: metrics}}
    (folder / "results.json").write_text(json.dumps(results))


def arguments(tmp_path, *others: str) -> list[str]:
    return [
        *("--table", "grser", "--document", str(tmp_path / "page.md")),
        *("--images", str(tmp_path / "images"), "--output", str(tmp_path / "runs")),
        *("--steps", "7", "--arms", "full", "LAVT alone", "pooled", *others),
    ]


def test_section_figure_and_claims_are_written(tmp_path, capsys) -> None:
    for seed in range(3):
        stored(tmp_path, "full", seed, 50.0 + seed)
        stored(tmp_path, "LAVT alone", seed, 40.0 + seed)
        stored(tmp_path, "pooled", seed, 51.5 + seed)
    page = tmp_path / "page.md"
    begin, end = "<!-- begin of the table grser -->", "<!-- end of the table grser -->"
    page.write_text(f"before\n\n{begin}\nold\n{end}\n\nafter\n")
    options = arguments(tmp_path, "--no-training", "--opts", "PICTUREBOOK.ROOT", "/somewhere")
    ablations.main(options)
    text = page.read_text()
    assert text.startswith(f"before\n\n{begin}\n\n") and text.endswith(f"\n\n{end}\n\nafter\n")
    assert "old" not in text and "/somewhere" not in text and str(tmp_path) not in text
    assert (
        "    python benchmarks/ablations.py --table grser --seeds 0 1 2 --steps 7 "
        "--arms full 'LAVT alone' pooled\n"
    ) in text
    assert "| full | 51.0 ± 1.0 | 52.0 ± 1.0 |" in text
    assert (
        "| negative images are rejected better than by LAVT | N-acc: full − LAVT alone | +10.0 | "
        "seen here |"
    ) in text
    assert "| mIoU, all: full − pooled | -1.5 | within the spread |" in text
    assert "| full: pointing, visual − pointing, language | +1.0 | within the spread |" in text
    assert "hierarchizer" not in text  # it is not among the rows of the run
    assert "![GRSer: every row and seed](images/ablations_grser.png)" in text
    pixels = np.asarray(Image.open(tmp_path / "images/ablations_grser.png").convert("RGB"))
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 60)  # the full model, in every panel
    assert red.any(0).sum() >= len(grser_ablations.METRICS)
    ablations.main(options)
    assert page.read_text() == text
    assert (
        text.partition(begin)[2].partition(end)[0].strip()
        == capsys.readouterr().out.partition("\n    python")[0].strip()
    )


def test_a_killed_run_goes_on_with_the_rows_without_results(tmp_path, monkeypatch) -> None:
    trained: list[str] = []

    def call(command: list[str], threads: int) -> None:
        folder = command[command.index("OUTPUT_DIR") + 1]
        trained.append(folder.rpartition("/")[2])
        if len(trained) == 3:
            raise KeyboardInterrupt
        seed = int(command[command.index("SEED") + 1])
        stored(tmp_path, "full" if "full" in trained[-1] else "pooled", seed, 1.0)

    monkeypatch.setattr(arms, "call", call)
    (tmp_path / "page.md").write_text(
        "<!-- begin of the table grser --><!-- end of the table grser -->"
    )
    options = arguments(tmp_path, "--seeds", "0", "1")
    options.remove("LAVT alone")
    with pytest.raises(KeyboardInterrupt):
        ablations.main(options)
    assert "full" not in (tmp_path / "page.md").read_text()
    ablations.main(options)
    name = "{}-steps7-packaged-seed{}".format
    rows = [name(arm, seed) for seed in (0, 1) for arm in ("full", "pooled")]
    assert trained == [*rows[:3], *rows[2:]]
    assert "too few seeds" in (tmp_path / "page.md").read_text()


def test_a_document_without_the_marks_is_not_changed(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text")
    with pytest.raises(SystemExit, match=r'page.md: it has no lines "<!-- begin of the table gr'):
        ablations.main(arguments(tmp_path))  # before anything is trained
    assert page.read_text() == "text"


@pytest.mark.parametrize("name", ablations.TABLES)
def test_the_document_has_a_section_for_every_table(name: str) -> None:
    text = (arms.ROOT / ablations.DOCUMENT).read_text(encoding="utf-8")
    assert text.count(f"<!-- begin of the table {name} -->") == 1
    assert text.count(f"<!-- end of the table {name} -->") == 1
