"""The pass of a batch through the model: as it is, captured in a CUDA graph, or with compiled towers."""
