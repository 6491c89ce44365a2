"""Rounds of one service each: observe, decide, perform."""
