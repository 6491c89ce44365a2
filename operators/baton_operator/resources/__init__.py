"""Pure builders: from a service's spec to the manifests of what it owns.

Every manifest is ready for server-side apply: complete, without status and without nulls, and the
same for the same input. `shared` puts those together that all revisions share; each other
file builds one idea.
"""
