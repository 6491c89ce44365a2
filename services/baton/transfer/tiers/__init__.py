"""Copies of KV blocks below the device: host memory, disk."""
