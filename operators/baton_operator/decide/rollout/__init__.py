"""Which revision has how many workers, and who goes first. Pure."""
