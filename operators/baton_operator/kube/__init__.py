"""The API server: calls, the Lease, watches, events."""
