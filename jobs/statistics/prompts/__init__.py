"""Prompts as probes over a whole run: `promptsg stats --by prompt`."""
