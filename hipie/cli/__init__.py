"""Command-line programs of the package, one command a module."""
