"""Model data that comes with the package: `baton_tiny`, found by `core.model_folder`."""
