"""The resources as typed models: the source of the CRDs, and what the operator reasons about.

One file per concern of the spec. YAML speaks camelCase, Python snake_case. A docstring below a
field is what `kubectl explain` says of it.
"""
