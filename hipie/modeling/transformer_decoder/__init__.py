"""Decoders of things and of stuff, their layers, queries and denoising."""
