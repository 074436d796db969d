"""What `promptsg stats` writes: the findings as tables, arrays, figures and a page to read."""
