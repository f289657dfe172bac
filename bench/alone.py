"""Rows without peers."""
ROWS = ()
