"""Which family a checkpoint belongs to, and its tensors under one set of names."""
