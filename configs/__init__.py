"""Presets, as package data: `importlib.resources.files("configs")`."""
