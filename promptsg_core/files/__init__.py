"""Checkpoint files: read without running code, and the state dict taken out of what trainers wrap around it."""
