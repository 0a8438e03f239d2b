"""Paired (mask, slice) generation with diffusion-guided diffusion models (MICCAI 2025), the MONAI way."""

__version__ = "0.1.0"
