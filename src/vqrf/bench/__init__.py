"""Rate against distortion: jobs, curves, and what others do instead."""
