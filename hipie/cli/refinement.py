"""`--refine` and `--sam`: refinement of the results of a command before they are written."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from hipie.errors import MissingPackageError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hipie.batch_inference.recorder import BatchSegment, OnError
    from hipie.modeling.sam.predictor import Sam
    from hipie.segmentation import Segmentation

# Those of `hipie.refinement.REFINEMENTS`, which cannot be imported before the arguments are read.
REFINEMENTS = ("crf", "pamr", "sam")


def add_refinement_arguments(parser: argparse.ArgumentParser, sam_help: str) -> None:
    """Add `--refine`, `--sam` and `--sam-weights`.

    Args:
        parser: of the command.
        sam_help: what `--sam` is used for.
    """
    parser.add_argument(
        "--refine",
        default="",
        choices=REFINEMENTS,
        help="refine the masks of every result by the colours of the image (crf: a dense CRF, "
        "pamr), or by the SAM of --sam",
    )
    parser.add_argument("--sam", default="", metavar="TYPE", help=sam_help)
    parser.add_argument(
        "--sam-weights",
        default="",
        metavar="FILE",
        help="own file of weights of any of them; --sam may be its type, such as vit_b",
    )


def check_refinement(args: argparse.Namespace) -> None:
    """Check, before any work, that the refinement of a command line can be computed.

    Raises:
        UsageError: for `--refine sam` without a model.
        MissingPackageError: for a method whose package is not installed.
    """
    if args.refine == "sam":
        if not (args.sam or args.sam_weights):
            raise UsageError("--refine sam needs --sam")
        _require_package("segment_anything", "segment_anything", "sam")
    if args.refine == "crf":
        _require_package("pydensecrf", "pydensecrf2", "crf")


def build_sam(model: str, weights: str, argument: str = "--sam") -> Sam | None:
    """Build the SAM of a command line, if a type or a file is given.

    Args:
        model: `--sam`, a name of the model zoo or a type.
        weights: `--sam-weights`.
        argument: that needs it, for the message of a missing package.

    Raises:
        MissingPackageError: without the package segment_anything.
        ValueError: for an unknown type, or weights that are missing or another model's.
    """
    if not model and not weights:
        return None
    try:
        from hipie.modeling.sam.predictor import Sam
    except ModuleNotFoundError as error:
        raise _missing_package(argument, "segment_anything", "sam") from error
    from hipie import model_zoo

    return Sam.from_source(*model_zoo.sam_source(model, weights))


def refine_result(result: Segmentation, method: str, sam: Sam | None) -> Segmentation:
    """Refine a result by the method of `--refine`; return it unchanged without one."""
    if not method:
        return result
    return result.refine(method, sam=sam if method == "sam" else None)


def refine_batches(
    stream: Callable[[Iterable[NDArray[Any]], OnError], Iterator[Segmentation]],
    method: str,
    sam: Sam | None,
) -> BatchSegment:
    """Return a call on several images whose results are refined one by one, in order."""
    from hipie.batch_inference.recorder import BatchSegment

    return BatchSegment(
        lambda images, on_error: (
            refine_result(result, method, sam) for result in stream(images, on_error)
        )
    )


def _require_package(module: str, package: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise _missing_package(f"--refine {extra}", package, extra)


def _missing_package(argument: str, package: str, extra: str) -> MissingPackageError:
    return MissingPackageError(
        f'{argument} needs the package {package}: pip install {package} (or "hipie[{extra}]")'
    )
