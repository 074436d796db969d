"""TransReID ViT (He et al. 2021, arXiv:2102.04378): base and small, with or without JPM and camera embeddings."""

from promptsg_core.families.transreid.family import FAMILIES

__all__ = ["FAMILIES"]
