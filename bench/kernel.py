"""The kernel build, on demand."""
ROWS = ()
