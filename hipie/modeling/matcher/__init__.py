"""Assignment of queries to ground-truth objects."""
