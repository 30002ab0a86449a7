"""Ingest: images and foreign tables, planned on disk and packed into cutout shards."""
