"""Episodes of registered data sets."""
