{{/* What the schema cannot say: combinations that would install and then not work. */}}
{{- define "baton.checks" -}}
{{- if and .Values.demo.enabled (not .Values.redis.enabled) -}}
{{- fail "demo.enabled needs redis.enabled: the demo service has no store of its own" -}}
{{- end -}}
{{- if and .Values.demo.enabled (eq (int .Values.operator.replicas) 0) -}}
{{- fail "demo.enabled needs operator.replicas of 1 or more: nobody would make its pods" -}}
{{- end -}}
{{- $prefix := include "baton.fullname" . -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" $prefix) -}}
{{- fail (printf "names of the release's objects would begin with %q, and a Service's cannot: it has small letters, digits and dashes, a letter first. Choose another release name than %q, or set fullnameOverride" $prefix .Release.Name) -}}
{{- end -}}
{{- include "baton.checkOthers" . -}}
{{- end -}}

{{/*
Two operators that serve one namespace undo each other's work, each with a key of its own. Those of
other releases are found by the mark on their roles; without a cluster (`helm template`) none is. A
release for one namespace looks there alone: who installs it may see no more.
*/}}
{{- define "baton.checkOthers" -}}
{{- $own := .Values.operator.namespaced -}}
{{- range $kind := ternary (list "Role") (list "ClusterRole" "Role") $own -}}
{{- range (lookup "rbac.authorization.k8s.io/v1" $kind (ternary $.Release.Namespace "" $own) "").items -}}
{{- $serves := dig "labels" "baton.dev/serves" "" .metadata -}}
{{- $release := dig "annotations" "meta.helm.sh/release-name" "" .metadata -}}
{{- $namespace := dig "annotations" "meta.helm.sh/release-namespace" "" .metadata -}}
{{- if and $serves (or (ne $release $.Release.Name) (ne $namespace $.Release.Namespace)) -}}
{{- $served := ternary "every namespace" (printf "namespace %s" .metadata.namespace) (eq $serves "cluster") -}}
{{- fail (printf "%s %s: release %q in namespace %q serves %s already, and two operators would undo each other's work. Uninstall that one, or give each a namespace of its own: operator.namespaced=true in every release" $kind .metadata.name $release $namespace $served) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
