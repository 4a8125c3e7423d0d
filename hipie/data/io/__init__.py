"""Safe reading of annotation files: JSON, pickle, MATLAB, RLE, polygons."""
