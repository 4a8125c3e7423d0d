"""Regions of pixels, their features and their classes."""
