"""A field to a compressed one: importance, tuning, the presets, and the search for a size."""
