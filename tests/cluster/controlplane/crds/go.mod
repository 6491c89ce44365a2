// Whose CRDs the cluster tests install: nothing here is compiled. A module of its own, so that
// their requirements do not move the versions of what is. scripts/cluster-tools copies the files.
module baton.dev/crds

go 1.24.0

require (
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.4.1
)
