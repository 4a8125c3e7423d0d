"""Training of a small model on two processes, of which one cannot read a batch: `... FOLDER`."""

from __future__ import annotations

import sys

from detectron2.config import get_cfg
from detectron2.utils import comm

from hipie.config import add_hipie_config
from hipie.engine.launch import launch
from hipie.errors import HipieError, InputError
from tests.toy_trainer import ToyTrainer, run


class OneFails(ToyTrainer):
    """Trainer whose second process cannot read the batch of iteration 3."""

    def build_train_loader(self, cfg, start=0):
        for index, batch in enumerate(super().build_train_loader(cfg, start), start):
            if index == 3 and comm.get_rank() == 1:
                raise InputError("a.png: the image is damaged")
            yield batch


def main(folder: str) -> None:
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.OUTPUT_DIR = folder
    cfg.MODEL.DEVICE = "cpu"
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 8, (7,)
    try:
        run(OneFails(cfg))
    except HipieError as error:
        print(f"{type(error).__name__} in process {comm.get_rank()}: {error}", flush=True)


if __name__ == "__main__":
    launch(main, (sys.argv[1],), cpu_workers=2)
