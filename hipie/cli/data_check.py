"""Command `hipie data check DATASET`: what training would use of a data set, and its faults."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from hipie.cli.dataset_argument import add_arguments, dataset_config, open_dataset
from hipie.data.annotation_view import dataset_vocabulary
from hipie.data.check import DatasetReport, check_records, format_report
from hipie.error_report import one_line_errors
from hipie.errors import HipieError, InputError
from hipie.evaluation import build_evaluator
from hipie.logs import PrintableFilter, get_logger
from hipie.modeling.text_encoder.class_names import check_class_names
from hipie.modeling.text_encoder.tokenizer import load_tokenizer

PROGRAM = "hipie data check"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status: 0 if a model can be trained and evaluated on the data set, else 1.

    Raises:
        SystemExit: with one line, if it cannot be opened; see `one_line_errors`.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Count what training would use of a data set, and list its faults. The exit "
        "status is 0 if a model can be trained and evaluated on it.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    with one_line_errors(PROGRAM), messages_as_warnings() as messages:
        try:
            report = read_report(args)
        except HipieError as error:
            if not args.json:
                raise
            report = DatasetReport(invalid=[str(error)])
    report.warnings[:0] = dict.fromkeys(messages)
    print(json.dumps(report.as_dict(), indent=2) if args.json else format_report(report))
    return 0 if report.trainable and report.evaluable else 1


def read_report(args: argparse.Namespace) -> DatasetReport:
    """Check the data set of a command line.

    Raises:
        HipieError: if it cannot be read at all.
    """
    cfg = dataset_config(args)
    records, metadata = open_dataset(args, cfg)
    report = check_records(
        tqdm(records, desc=args.dataset, unit="image", disable=None),
        metadata,
        min_part_area=cfg.INPUT.MIN_PART_AREA,
        generalized=cfg.INPUT.GENERALIZED_EXPRESSIONS,
        skip_broken=cfg.DATALOADER.SKIP_BROKEN,
    )
    check_names(cfg, metadata.name, report)
    check_evaluation(cfg, metadata.name, report)
    return report


def check_names(cfg: CfgNode, dataset_name: str, report: DatasetReport) -> None:
    """Add what the text encoder makes of the class names to a report.

    Args:
        cfg: reads MODEL.HIPIE.TEXT.SOURCE.
        dataset_name: a registered data set.
        report: gets warnings, and a fault if a name is unknown.
    """
    vocabulary = dataset_vocabulary(MetadataCatalog.get(dataset_name))
    if vocabulary is None:
        return
    source = cfg.MODEL.HIPIE.TEXT.SOURCE
    try:
        report.warnings += check_class_names(vocabulary, load_tokenizer(source), source)
    except InputError as error:
        report.training_faults.append(str(error))
        report.evaluation_faults.append(str(error))


def check_evaluation(cfg: CfgNode, dataset_name: str, report: DatasetReport) -> None:
    """Build the evaluator of a data set, and add to a report why that is not possible.

    Args:
        cfg: see `build_evaluator`.
        dataset_name: a registered data set.
        report: gets the fault.
    """
    try:
        build_evaluator(cfg, dataset_name)
    except HipieError as error:
        report.evaluation_faults.append(str(error))


@contextmanager
def messages_as_warnings() -> Iterator[list[str]]:
    """Collect the warnings that this package logs, in place of printing them."""
    messages: list[str] = []
    handler = _Collector(messages)
    logger = get_logger("hipie")
    handler.addFilter(PrintableFilter())
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


class _Collector(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())


if __name__ == "__main__":
    sys.exit(main())
