"""Publication: a catalog as HATS, sorted by place on the sky, with VOParquet metadata."""
