"""Preparation of data sets: what the programs `datasets/prepare_*.py` share."""
