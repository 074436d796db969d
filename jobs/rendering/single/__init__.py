"""Single images: their `files`, their `maps` through a model, and `panels` of these."""
