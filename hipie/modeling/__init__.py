"""Networks, matching, losses and postprocessing."""
