"""Pictures and the gallery from stored maps, and pictures of single images and pairs.

May use mining, statistics, runs and shards. Each command has a module of its name: `render`, `gallery`, `visualize`,
`compare`. To add a style of pictures, name it in `drawing.style`, draw it in `drawing.picture`, and say in `plan` which
images are on one picture.

- `render` plans its pictures (`plan`, `ranked_plan`, `names`), checks that a folder fits the request (`requests`), and
  draws in pieces (`chunks`, `painter`) what `drawing` makes of one picture. Its `index` shows them in a browser.
- `gallery` writes a `page` for a browser.
- `visualize` and `compare` take `single` images through a model.
- All share `looks`, `colour_limits`, `panels`, `image_files` and `processes`.
"""
