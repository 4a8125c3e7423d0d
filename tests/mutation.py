"""Mutation testing of losses, matchers, panoptic inference and metrics.

Draws mutants (cosmic-ray's operators: another operator, another number, a negated condition, a loop
that never runs, ...) and runs the tests of the changed module on each. A mutant that passes all
tests has survived; the score is the share of mutants that did not.

    python tests/mutation.py [--mutants 200] [--seed 0] [--modules focal dice] [--at-least 75]

Files are not written: every mutant runs in a process of its own, forked after the libraries are
imported, whose import system serves the changed source. Positions are drawn uniformly, then one of
the changes possible there. Changes of annotations alone are left out.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import ast
import difflib
import importlib.machinery
import importlib.util
import random
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
# Every module and the files that test it.
TARGETS: dict[str, tuple[str, ...]] = {
    "hipie/box_ops.py": ("test_box_ops.py",),
    "hipie/modeling/matcher/hungarian.py": ("modeling/matcher/test_hungarian.py",),
    "hipie/modeling/matcher/sim_ota.py": ("modeling/matcher/test_sim_ota.py",),
    "hipie/modeling/criterion/losses.py": (
        "modeling/criterion/test_losses.py",
        "modeling/criterion/test_both_criteria.py",
        "modeling/criterion/test_thing_criterion.py",
        "modeling/criterion/test_stuff_criterion.py",
    ),
    "hipie/modeling/criterion/thing_criterion.py": (
        "modeling/criterion/test_both_criteria.py",
        "modeling/criterion/test_thing_criterion.py",
        "modeling/criterion/test_normalizer_averaging.py",
    ),
    "hipie/modeling/criterion/stuff_criterion.py": (
        "modeling/criterion/test_both_criteria.py",
        "modeling/criterion/test_stuff_criterion.py",
        "modeling/criterion/test_normalizer_averaging.py",
    ),
    "hipie/modeling/postprocessing/panoptic_inference.py": (
        "modeling/postprocessing/test_panoptic_inference.py",
    ),
    "hipie/evaluation/metrics/expression_iou.py": ("evaluation/metrics/test_expression_iou.py",),
    "hipie/evaluation/referring_evaluation.py": ("evaluation/test_referring_evaluation.py",),
    "hipie/evaluation/metrics/part_iou.py": ("evaluation/test_part_evaluation.py",),
}

# Operators that replace variables need their names; the others take no arguments.
WITHOUT_ARGUMENTS = [name for name in operator_names() if "Variable" not in name]
TIMEOUT_FACTOR, TIMEOUT_LEAST = 5.0, 30.0
SURVIVED, KILLED, NO_TESTS = 0, 1, 5


@dataclass(frozen=True)
class Mutant:
    """One change of one file; `source` is the text of the changed file."""

    file: str
    line: int
    operator: str
    source: str


@cache
def positions(source: str) -> dict[tuple, list[tuple[str, int]]]:
    """Positions that can be mutated: (start, end) -> (operator, occurrence) pairs."""
    table: dict[tuple, list[tuple[str, int]]] = defaultdict(list)
    tree = get_ast(source)
    for name in WITHOUT_ARGUMENTS:
        operator, occurrence = get_operator(name)(), 0
        for node in ast_nodes(tree):
            for position in operator.mutation_positions(node):
                table[position].append((name, occurrence))
                occurrence += 1
    return dict(table)


def draw(files: Sequence[str], number: int, seed: int) -> Iterator[Mutant]:
    """Up to `number` mutants at different positions of the files, in random order."""
    rng = random.Random(seed)
    sources = {file: (ROOT / file).read_text(encoding="utf-8") for file in files}
    candidates = [
        (file, span, changes)
        for file in files
        for span, changes in positions(sources[file]).items()
    ]
    rng.shuffle(candidates)
    left = number
    for file, (start, _), changes in candidates:
        if not left:
            return
        operator, occurrence = rng.choice(changes)
        changed = mutate_code(sources[file], get_operator(operator)(), occurrence)
        if changed is not None and behaves_differently(sources[file], changed):
            left -= 1
            yield Mutant(file, start[0], operator.removeprefix("core/"), changed)


def behaves_differently(source: str, changed: str) -> bool:
    """Whether two sources differ in more than annotations, and the second is Python."""
    try:
        return _without_annotations(source) != _without_annotations(changed)
    except SyntaxError:
        return False


def _without_annotations(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


class ChangedSource:
    """An importer that serves one module's changed source, and leaves the others alone."""

    def __init__(self, file: str, source: str) -> None:
        self._name = file.removesuffix(".py").replace("/", ".")
        self._file, self._source = str(ROOT / file), source

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of the changed module; None for any other."""
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._file, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The usual kind of module."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed source."""
        exec(compile(self._source, self._file, "exec"), module.__dict__)


def run_tests(tests: Sequence[str], mutant: Mutant | None, limit: float) -> int:
    """Run tests in a forked process; pytest's exit status, or 1 if they hang or crash."""
    child = os.fork()
    if not child:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        if mutant is not None:
            sys.meta_path.insert(0, ChangedSource(mutant.file, mutant.source))
        files = [str(ROOT / "tests" / test) for test in tests]
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files])))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else KILLED
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return KILLED


def time_limits(files: Sequence[str]) -> dict[str, float]:
    """Seconds that a file's tests may take on a mutant.

    Raises:
        SystemExit: if the tests fail on the unchanged code.
    """
    limits: dict[str, float] = {}
    for file in files:
        start = time.monotonic()
        status = run_tests(TARGETS[file], None, 600.0)
        if status != SURVIVED:
            what = "do not exist" if status == NO_TESTS else "fail on the unchanged code"
            sys.exit(f"mutation.py: the tests of {file} {what}: {', '.join(TARGETS[file])}")
        limits[file] = max(TIMEOUT_LEAST, TIMEOUT_FACTOR * (time.monotonic() - start))
    return limits


def diff(mutant: Mutant) -> str:
    """Lines of the file that the mutant changes, as a unified diff without context."""
    before = (ROOT / mutant.file).read_text(encoding="utf-8").splitlines()
    lines = difflib.unified_diff(before, mutant.source.splitlines(), n=0, lineterm="")
    changes = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    return "\n".join(f"    {line}" for line in changes)


def preload() -> None:
    """Import the libraries that every mutant's process needs; nothing of `hipie`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("torch", "detectron2.model_zoo", "detectron2.evaluation", "transformers"):
            importlib.import_module(name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; it exits with status 1 below the required score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modules", nargs="+", default=[], help="parts of the files' names")
    parser.add_argument("--at-least", type=float, default=75.0, help="percent")
    args = parser.parse_args(arguments)
    files = [f for f in TARGETS if not args.modules or any(part in f for part in args.modules)]
    if not files:
        parser.error(f"no module has such a name; there are {', '.join(TARGETS)}")
    os.chdir(ROOT)
    preload()
    limits = time_limits(files)
    killed: dict[str, list[bool]] = defaultdict(list)
    for number, mutant in enumerate(draw(files, args.mutants, args.seed), 1):
        status = run_tests(TARGETS[mutant.file], mutant, limits[mutant.file])
        killed[mutant.file].append(status != SURVIVED)
        result = "killed" if status else "SURVIVED"
        print(f"{number}: {mutant.file}:{mutant.line} {mutant.operator}: {result}", flush=True)
        if not status:
            print(diff(mutant), flush=True)
    for file, each in sorted(killed.items()):
        print(f"{file}: {sum(each)} of {len(each)}")
    results = [result for each in killed.values() for result in each]
    score = 100.0 * sum(results) / max(len(results), 1)
    print(f"mutation score: {score:.1f} percent of {len(results)} (at least {args.at_least:.0f})")
    sys.exit(score < args.at_least)


if __name__ == "__main__":
    main()
