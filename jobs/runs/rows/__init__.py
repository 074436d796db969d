"""Which rows of the metadata are where."""
