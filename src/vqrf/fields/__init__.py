"""Radiance fields: what they hold, how they lie on disk, what a compressed one means."""
