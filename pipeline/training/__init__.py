"""Training on Ray Train: the feed of galaxies, the stages, the choice among the pairs."""
