"""Who works on a run: each worker's signs of life, and what they tell whoever looks, on this host or another."""
