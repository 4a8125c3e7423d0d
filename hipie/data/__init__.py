"""Data sets: the embedded picture book, and readers, mappers and samplers for data on disk."""
