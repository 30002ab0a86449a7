"""A catalog to look through and to label: a page on this machine."""
