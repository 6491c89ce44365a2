"""What the status says of a service. Pure."""
