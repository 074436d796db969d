"""What `promptsg diff` writes: tables, lists of keys, figures and a page to read."""
