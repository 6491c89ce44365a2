"""Decoders built from Hugging Face folders; a family is its differences."""
