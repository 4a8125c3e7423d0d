"""Networks of the architectures."""
