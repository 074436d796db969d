"""What `promptsg stats --by prompt` writes: numbers, figures and a page to read."""
