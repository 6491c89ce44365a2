{{/* Prefix of the names of everything in the release: at most 40, so that suffixes fit in 63. */}}
{{- define "baton.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "baton.operator.name" -}}{{ include "baton.fullname" . }}-operator{{- end -}}
{{- define "baton.redis.name" -}}{{ include "baton.fullname" . }}-redis{{- end -}}
{{- define "baton.crds.name" -}}{{ include "baton.fullname" . }}-crds{{- end -}}

{{- define "baton.redis.claim" -}}{{ include "baton.redis.name" . }}-data{{- end -}}

{{/*
Names of cluster-wide objects: (list $ "name in the namespace"). A colon is in no namespace and in
no such name, so those of two releases never meet.
*/}}
{{- define "baton.clusterName" -}}
{{ (index . 0).Release.Namespace }}:{{ index . 1 }}
{{- end -}}

{{- define "baton.serviceAccountName" -}}
{{- if .Values.operator.serviceAccount.create -}}
{{ default (include "baton.operator.name" .) .Values.operator.serviceAccount.name }}
{{- else -}}
{{ required "operator.serviceAccount.create=false needs operator.serviceAccount.name" .Values.operator.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "baton.keySecret" -}}
{{ default (printf "%s-key" (include "baton.operator.name" .)) .Values.operator.key.existingSecret }}
{{- end -}}

{{- define "baton.redisSecret" -}}
{{ default (include "baton.redis.name" .) .Values.redis.existingSecret }}
{{- end -}}

{{/* Labels that pick the pods of one component: (list $ "operator"). They never change. */}}
{{- define "baton.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of every object: (list $ "operator"). */}}
{{- define "baton.labels" -}}
{{- $root := index . 0 -}}
{{ include "baton.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: baton
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}
