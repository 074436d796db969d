"""Training a PromptSG on shards.

May use shards, datasets and launch.
"""
