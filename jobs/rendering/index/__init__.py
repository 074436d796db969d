"""The index of the pictures that `promptsg render` drew: their `captions`, the `listed` pictures, and their `pages`."""
