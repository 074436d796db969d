"""What `promptsg localise` writes: its findings as JSON, figures and a page to read."""
