"""The tabs of the page, one a module with a function `build`."""
