"""Drawing one picture of a run, in each of its styles.

`picture` draws a `job` in a `style` from one `entry` for each image. Pages of many images are in `pages`, ranked lists
in `ranked`; `cells` are the parts that they share.
"""
