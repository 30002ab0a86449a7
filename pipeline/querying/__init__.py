"""Questions to a catalog: SQL, cones, and pages of thumbnails."""
