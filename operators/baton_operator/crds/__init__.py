"""CustomResourceDefinitions, made from `baton_operator.types` by `make crds`."""
