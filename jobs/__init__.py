"""The commands and the pipeline: reads shards, runs the model, writes and reads runs."""
