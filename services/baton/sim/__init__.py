"""Virtual time around the real scheduler, block manager and router."""
