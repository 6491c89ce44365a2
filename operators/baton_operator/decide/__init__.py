"""Decisions: from what was seen to what is to be done. Pure."""
