{{/* What the schema cannot say: combinations that would install and then not work. */}}
{{- define "baton.checks" -}}
{{- if and .Values.demo.enabled (not .Values.redis.enabled) -}}
{{- fail "demo.enabled needs redis.enabled: the demo service has no store of its own" -}}
{{- end -}}
{{- if and .Values.demo.enabled (eq (int .Values.operator.replicas) 0) -}}
{{- fail "demo.enabled needs operator.replicas of 1 or more: nobody would make its pods" -}}
{{- end -}}
{{- end -}}
