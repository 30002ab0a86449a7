"""HTML pages for people: one file each, pictures and downloads inside, loading nothing from anywhere."""
