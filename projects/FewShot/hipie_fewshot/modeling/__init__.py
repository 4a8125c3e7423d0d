"""Few-shot methods and their networks."""
