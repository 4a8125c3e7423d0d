"""`python -m hipie_ops.check`: a short test of correctness and speed on this machine."""

from __future__ import annotations

from importlib import import_module

from hipie_ops import IMPLEMENTATION

main = import_module(f"{IMPLEMENTATION}.check").main

if __name__ == "__main__":
    raise SystemExit(main())
