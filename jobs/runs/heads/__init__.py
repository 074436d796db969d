"""Single heads of an attention that `mine --attention-heads all` stored: which there are, and each one's maps.

`NAME#3` is head 3 of the attention NAME, counted from 0 as the HDF5 files store them, and `NAME#all` stands for all.
Readers of maps take such a name as that of any other map.
"""
