"""The page of a gallery: which `rows` it shows, their `pictures` and map scripts, its `data`, and its `folder`."""
