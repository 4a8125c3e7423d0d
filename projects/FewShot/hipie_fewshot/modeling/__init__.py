"""Few-shot methods and the networks they stand on."""
