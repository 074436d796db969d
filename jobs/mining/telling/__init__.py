"""What a worker tells while it mines."""
