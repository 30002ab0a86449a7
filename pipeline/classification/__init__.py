"""Classification: shards handed to workers, parts of a catalog out; and what it would take, beforehand."""
