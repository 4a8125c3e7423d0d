"""Tables of the papers' ablations at nano scale: rows, spread, figure and claims.

Every row of `--table` is trained with several seeds on the picture book, in separate processes. A
row with results is not trained again, and an interrupted one is resumed, so that a killed run goes
on where it was. The table, with the mean over seeds ± half their range, and the paper's claims
about it are written into `docs/ablations.md`, the figure into `docs/images/`.

A claim that one row is better than another is "seen here" if all seeds of the one are better than
all seeds of the other, "not seen" if all are worse, and else "within the spread". Without any
effect, three seeds of each are in the claimed order with a probability of 1 in 20.

    python benchmarks/ablations.py --table hipie|refersam|grser [--seeds 0 1 2] [--arms full ...]
    python benchmarks/ablations.py --table grser --no-training      the available results

All other options are those of `{hipie,refersam,grser}_ablations.py`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks import arms, grser_ablations, hipie_ablations, refersam_ablations

MIN_SEEDS = 3
SEEN, NOT_SEEN, WITHIN, TOO_FEW = "seen here", "not seen", "within the spread", "too few seeds"
DOCUMENT, IMAGES = "docs/ablations.md", "docs/images"
# Options that say where and how fast, not what is computed.
PLACES = ("--output", "--threads", "PICTUREBOOK.ROOT", "DATALOADER.NUM_WORKERS")
PLACES_OF_TABLE = {"hipie": ("--pages",)}
Cell = tuple[str, str]


@dataclass(frozen=True)
class Claim:
    """A paper's claim that a cell of the table is larger than another.

    Attributes:
        text: the claim.
        better, worse: arm and metric of each cell.
    """

    text: str
    better: Cell
    worse: Cell


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        title: of the table and of the figure.
        program: module with `ARMS`, `METRICS`, `parse`, `run`, `read` and `table`.
        claims: of the paper.
    """

    title: str
    program: ModuleType
    claims: tuple[Claim, ...]


def _than(arm: str, metric: str, text: str) -> Claim:
    """Claim that the full model is better than an arm."""
    return Claim(text, ("full", metric), (arm, metric))


TABLES = {
    "hipie": Table(
        "HIPIE",
        hipie_ablations,
        (
            _than("one_decoder", "PQ", "two decoders are better than one for all"),
            _than("stuff_early_fusion", "mIoU", "stuff is better with late than with early fusion"),
            _than("no_fusion", "mask AP", "things are better with early than with late fusion"),
            _than("no_fusion", "referring oIoU", "expressions are better with early fusion"),
            _than("only_things", "mask AP", "joint training is better for things"),
            _than("only_stuff", "mIoU", "joint training is better for stuff"),
            _than("only_referring", "referring oIoU", "joint training is better for expressions"),
            _than("only_parts", "parts mIoU", "joint training is better for parts"),
        ),
    ),
    "refersam": Table(
        "ReferSAM",
        refersam_ablations,
        (
            _than("baseline", "oIoU", "better than SAM with the sentence feature as prompt"),
            _than("no_interactor", "oIoU", "the interactor helps"),
            _than("no_text_in_interactor", "oIoU", "text in the interactor helps"),
            _than("no_prompter", "oIoU", "the prompter helps"),
            _than("no_dense_prompt", "oIoU", "the dense prompt helps"),
            _than("single_scale", "oIoU", "maps of several scales help"),
            _than("no_context_tokens", "oIoU", "context tokens help"),
            _than("32_context_tokens", "oIoU", "16 context tokens are better than 32"),
            _than("1_sparse_tokens", "oIoU", "4 sparse tokens are better than 1"),
            _than("32_sparse_tokens", "oIoU", "4 sparse tokens are better than 32"),
            _than("no_coarse_loss", "oIoU", "supervision of the coarse mask helps"),
            _than("no_dice_loss", "oIoU", "the dice loss helps"),
            _than("no_cross_entropy", "oIoU", "the cross entropy helps"),
            Claim(
                "a frozen text encoder costs much",
                ("tuned_text_encoder", "oIoU"),
                ("full", "oIoU"),
            ),
        ),
    ),
    "grser": Table(
        "GRSer",
        grser_ablations,
        (
            _than("LAVT alone", "N-acc", "negative images are rejected better than by LAVT"),
            _than("LAVT alone", "mIoU, all", "masks of a group are better than LAVT's"),
            _than("language heatmaps", "mIoU, all", "queries between the images of a group help"),
            _than("pooled", "mIoU, all", "ranked heatmaps are better than pooled ones"),
            _than("without hierarchizer", "mIoU, all", "the order of the hierarchizer helps"),
            _than("positive ranks", "mIoU, all", "both ranks are better than the positive one"),
            _than("negative ranks", "mIoU, all", "both ranks are better than the negative one"),
            _than("without anti-expression", "mIoU, all", "the anti-expression helps"),
            _than("without mirror training", "mIoU, all", "mirror training helps"),
            _than("without triplet loss", "N-acc", "the triplet loss rejects negative images"),
            Claim(
                "visual heatmaps localise better than the language heatmap",
                ("full", "pointing, visual"),
                ("full", "pointing, language"),
            ),
        ),
    ),
}


def verdict(better: Sequence[float], worse: Sequence[float]) -> str:
    """Compare the values of two cells over seeds.

    Args:
        better: values that are claimed to be larger.
        worse: the others.

    Returns:
        `SEEN`, `NOT_SEEN`, `WITHIN`, or `TOO_FEW` with fewer than `MIN_SEEDS` values of a cell.
    """
    if min(len(better), len(worse)) < MIN_SEEDS:
        return TOO_FEW
    if min(better) > max(worse):
        return SEEN
    return NOT_SEEN if max(better) < min(worse) else WITHIN


def values(table: Table, cell: Cell, options: argparse.Namespace) -> list[float]:
    """Values of a cell, of all seeds that have results."""
    arm, metric = cell
    results = (table.program.read(arm, seed, options) for seed in options.seeds)
    return [result[metric] for result in results if result is not None and metric in result]


def claims(table: Table, options: argparse.Namespace) -> str:
    """Build a Markdown table of the claims whose two rows are among the arms of the run."""
    rows = [f"| claim of {table.title}'s paper | compared | difference | |", "|---|---|---|---|"]
    for claim in table.claims:
        if {claim.better[0], claim.worse[0]} - {*options.arms}:
            continue
        better, worse = (values(table, cell, options) for cell in (claim.better, claim.worse))
        difference = ""
        if better and worse:
            difference = f"{sum(better) / len(better) - sum(worse) / len(worse):+.1f}"
        compared = " − ".join(_cell_names(claim))
        rows.append(f"| {claim.text} | {compared} | {difference} | {verdict(better, worse)} |")
    return "\n".join(rows)


def _cell_names(claim: Claim) -> tuple[str, str]:
    (better, metric), (worse, other) = claim.better, claim.worse
    if better == worse:
        return f"{better}: {metric}", other
    return f"{metric}: {_spaced(better)}", _spaced(worse)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def command(table: str, arguments: Sequence[str]) -> str:
    """The command that computes a table again, without folders and threads."""
    kept: list[str] = []
    places = (*PLACES, *PLACES_OF_TABLE.get(table, ()))
    left = iter(arguments)
    for argument in left:
        if argument in places:
            next(left, None)
        elif argument != "--no-training":
            kept.append(argument)
    if kept and kept[-1] == "--opts":
        kept.pop()
    return shlex.join(["python", "benchmarks/ablations.py", "--table", table, *kept])


def draw(table: Table, options: argparse.Namespace, file: Path) -> None:
    """Draw a panel for each metric: a row's mean, its range over seeds, and every seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    metrics, names = list(table.program.METRICS), list(options.arms)
    figure, panels = plt.subplots(
        1,
        len(metrics),
        figsize=(2.2 * len(metrics) + 1.6, 0.28 * len(names) + 1.3),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, metric in zip(panels[0], metrics, strict=True):
        for row, arm in enumerate(names):
            found = values(table, (arm, metric), options)
            if not found:
                continue
            colour = "tab:red" if arm == "full" else "tab:blue"
            panel.hlines(row, min(found), max(found), color=colour, alpha=0.5)
            panel.plot(found, [row] * len(found), ".", color=colour, alpha=0.5, markersize=4)
            panel.plot(sum(found) / len(found), row, "o", color=colour, markersize=5)
        panel.set_title(metric, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", alpha=0.3)
    panels[0][0].set_yticks(range(len(names)), [_spaced(name) for name in names], fontsize=8)
    panels[0][0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(f"{table.title} at nano scale: mean, range and seeds", fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)


def section(name: str, options: argparse.Namespace, arguments: Sequence[str], image: str) -> str:
    """Markdown of a table: the command, the rows, the figure and the claims."""
    table = TABLES[name]
    return "\n\n".join(
        [
            f"    {command(name, arguments)}",
            table.program.table(options),
            f"![{table.title}: every row and seed]({image})",
            claims(table, options),
        ]
    )


def section_pattern(file: Path, name: str) -> re.Pattern[str]:
    """Pattern of a table's section of a document: the text between two marks, and the marks.

    Raises:
        SystemExit: if the document has no such marks.
    """
    begin, end = f"<!-- begin of the table {name} -->", f"<!-- end of the table {name} -->"
    pattern = re.compile(f"({re.escape(begin)}).*?({re.escape(end)})", re.DOTALL)
    if not file.is_file() or not pattern.search(file.read_text(encoding="utf-8")):
        raise SystemExit(f'{file}: it has no lines "{begin}" and "{end}"')
    return pattern


def write_section(file: Path, name: str, text: str) -> None:
    """Replace a table's section of a document; see `section_pattern`."""
    pattern = section_pattern(file, name)
    content = file.read_text(encoding="utf-8")
    replaced = pattern.sub(lambda match: f"{match[1]}\n\n{text}\n\n{match[2]}", content)
    file.write_text(replaced, encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, train the missing rows, write the table, the figure and the claims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--table", choices=TABLES, required=True)
    parser.add_argument("--document", default=str(arms.ROOT / DOCUMENT))
    parser.add_argument("--images", default=str(arms.ROOT / IMAGES), help="folder of the figure")
    own, others = parser.parse_known_args(arguments)
    if "--seeds" not in others:
        others = ["--seeds", *map(str, range(MIN_SEEDS)), *others]
    table, document = TABLES[own.table], Path(own.document)
    section_pattern(document, own.table)
    options = table.program.parse(others)
    table.program.run(options)
    image = Path(own.images) / f"ablations_{own.table}.png"
    draw(table, options, image)
    link = Path(os.path.relpath(image, document.parent)).as_posix()
    text = section(own.table, options, others, link)
    write_section(document, own.table, text)
    print(text)


if __name__ == "__main__":
    main()
