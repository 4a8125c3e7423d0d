#!/usr/bin/env python
r"""Segment images by class names and expressions: the command `hipie demo` as a program.

    python demo.py --config-file configs/nano/hipie_nano_picturebook.yaml --input image.jpg \
        --things "car; dog, puppy" --stuff "grass; sky" --parts "car: wheel, window" --output out
    python demo.py --examples --output out
    python demo.py --config-file ... --input image.jpg --expression "the red car" --output out

Classes are separated by ";", synonyms by ",". Several images with one expression are also drawn on
one sheet; by a model with the task `group` on that sheet alone.
"""

from __future__ import annotations

import sys

from hipie.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("demo", sys.argv[1:], "demo.py"))
