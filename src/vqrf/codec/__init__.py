"""The promise: what a compressed field is, and the bytes of it. NumPy only; it changes by version, never by week."""
