"""The picture book."""
