"""Specs of ModelServices for tests."""

from __future__ import annotations

from typing import Any


def pool(name: str, role: str, replicas: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "replicas": replicas, "engine": {"kind": "mock"}, **more}


def pair(prefill: int, decode: int, image: str = "baton:1", **limits: int) -> dict[str, Any]:
    """A prefill pool `pre` and a decode pool `dec`; `limits` are their maxSurge and so on."""
    return {
        "image": image,
        "model": {"source": "baton-tiny"},
        "pools": [
            pool("pre", "prefill", prefill, rollout=limits),
            pool("dec", "decode", decode, rollout=limits),
        ],
    }
