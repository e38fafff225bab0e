"""Training sets from an output folder: which faces, in which split and order, and one file per format."""
