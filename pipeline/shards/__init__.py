"""Cutout shards: what they are, and how files of many kinds are read as rows of one."""
