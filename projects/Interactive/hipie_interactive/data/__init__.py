"""Registered data sets with the masks of their objects as targets."""
