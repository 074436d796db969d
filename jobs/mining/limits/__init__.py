"""Limits of a device: the images that its memory holds, numbers that fp16 and bf16 do not hold, shared GPUs."""
