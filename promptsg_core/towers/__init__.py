"""What families of models share: CLIP's image and text towers, their blocks, and fast linear layers."""
