"""What depends on the device: how many images at once, the same bytes again, and images that need float32."""
