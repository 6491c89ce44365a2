"""Baton's Kubernetes operator: a pure `reconcile` inside a kopf shell."""
