"""How well maps lie on the persons, where masks of them are given: `promptsg localise`."""
