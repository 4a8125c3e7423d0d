"""Profile of training steps: a trace and a table of operators."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from torch.profiler import ProfilerActivity, profile

from hipie.logs import get_logger

logger = get_logger(__name__)

FOLDER = "profile"
WARM_UP_STEPS = 2
"""Steps before the profile; the first ones are slower than the rest."""
TABLE_ROWS = 50


class StepProfiler(HookBase):
    """Hook that profiles `steps` iterations after two others; the training then goes on.

    Every process writes `trace_rank<i>.json.gz`, for chrome://tracing or ui.perfetto.dev, and
    `operators_rank<i>.txt`, a table of operators by the time they take on the device.

    Args:
        steps: number of iterations, of which there are fewer if the training ends before.
        output_dir: `OUTPUT_DIR`; the files are in its folder `profile`.
    """

    def __init__(self, steps: int, output_dir: str) -> None:
        self._steps = steps
        self._folder = Path(output_dir, FOLDER)
        self._profiler: profile | None = None
        self._first = 0

    def before_train(self) -> None:
        """Choose the first iteration that is profiled."""
        self._first = self.trainer.start_iter + WARM_UP_STEPS

    def before_step(self) -> None:
        """Start the profiler at that iteration."""
        if self.trainer.iter == self._first:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profiler = profile(activities=activities, record_shapes=True, profile_memory=True)
            self._profiler.start()

    def after_step(self) -> None:
        """Write the files after the last iteration that is profiled."""
        if self._profiler is None:
            return
        self._profiler.step()
        if self.trainer.iter + 1 == self._first + self._steps:
            self._write(self._steps)

    def after_train(self) -> None:
        """Write what there is, if the training has ended before."""
        if self._profiler is not None:
            self._write(self.trainer.iter - self._first)
        elif self.trainer.iter <= self._first:
            logger.warning("No step was profiled: the training ended after %d", self.trainer.iter)

    def _write(self, steps: int) -> None:
        profiler, self._profiler = self._profiler, None
        assert profiler is not None
        profiler.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        rank = comm.get_rank()
        trace = self._folder / f"trace_rank{rank}.json.gz"
        table = self._folder / f"operators_rank{rank}.txt"
        profiler.export_chrome_trace(str(trace))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        averages = profiler.key_averages()
        text = averages.table(sort_by=f"self_{device}_time_total", row_limit=TABLE_ROWS)
        table.write_text(f"{steps} iterations from {self._first} on\n{text}\n", encoding="utf-8")
        logger.info("The profile of %d iterations is in %s and %s", steps, trace, table)
