"""Groups of images from registered data sets."""
