#!/usr/bin/env python
"""Train or evaluate any model of `hipie`: Detectron2's command line, on CPU, GPUs or torchrun.

python train_net.py --config-file configs/nano/hipie_nano_picturebook.yaml SOLVER.MAX_ITER 60
python train_net.py --config-file ... --resume
python train_net.py --config-file ... --eval-only PICTUREBOOK.SEED 7
"""

from __future__ import annotations

import sys

from hipie.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:], "train_net.py"))
