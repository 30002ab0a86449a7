"""Survey tiles and positions to cutout shards."""
