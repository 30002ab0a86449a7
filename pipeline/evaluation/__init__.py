"""Evaluation: the scores of a bundle on labeled shards, as tables and as a page."""
