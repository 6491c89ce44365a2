"""What pods are made of. Pure."""
