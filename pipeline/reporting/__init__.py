"""Reports: all of a training run on one page."""
