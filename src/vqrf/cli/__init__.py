"""Words to calls. Nothing below imports this wing."""
