{{/* Names, labels and references that all objects share. */}}

{{- define "tokenstream.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "tokenstream.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "tokenstream.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "tokenstream.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The full name with a suffix, never cut: (list $ "service"). Room is made in front of it. */}}
{{- define "tokenstream.named" -}}
{{- $suffix := index . 1 -}}
{{- $room := sub 62 (len $suffix) | int -}}
{{- printf "%s-%s" (include "tokenstream.fullname" (index . 0) | trunc $room | trimSuffix "-") $suffix -}}
{{- end -}}

{{- define "tokenstream.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* What never changes in a release, and so may select: (list $ "bridge"). */}}
{{- define "tokenstream.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "tokenstream.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* All labels of an object: (list $ "bridge"), or with further ones (list $ "bridge" labels). */}}
{{- define "tokenstream.labels" -}}
{{- $root := index . 0 -}}
{{ include "tokenstream.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: tokenstream
helm.sh/chart: {{ include "tokenstream.chart" $root }}
{{- $more := dict -}}
{{- if gt (len .) 2 }}{{ $more = index . 2 }}{{ end -}}
{{- with merge (dict) $more $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* name, namespace, labels and annotations: (list $ "bridge" "name" annotations), or with labels. */}}
{{- define "tokenstream.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 2 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- $labels := dict -}}
  {{- if gt (len .) 4 }}{{ $labels = index . 4 }}{{ end -}}
  {{- include "tokenstream.labels" (list $root (index . 1) $labels) | nindent 2 }}
{{- with merge (dict) (index . 3) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* (list $ "bridge"): the account of a part's pods. */}}
{{- define "tokenstream.serviceAccountName" -}}
{{- $account := (index (index . 0).Values (index . 1)).serviceAccount -}}
{{- if $account.create -}}
{{- default (include "tokenstream.named" .) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{/* (list image "default tag"): a reference by digest, else by tag. */}}
{{- define "tokenstream.image" -}}
{{- $image := index . 0 -}}
{{- $name := $image.repository -}}
{{- with $image.registry -}}{{- $name = printf "%s/%s" (trimSuffix "/" .) $name -}}{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default (index . 1) $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "tokenstream.serviceImage" -}}
{{- $build := ternary "cuda" "cpu" (gt (int .Values.service.gpu.count) 0) -}}
{{- include "tokenstream.image" (list .Values.service.image (printf "%s-%s" .Chart.AppVersion $build)) -}}
{{- end -}}

{{- define "tokenstream.bridgeImage" -}}
{{- include "tokenstream.image" (list .Values.bridge.image .Chart.AppVersion) -}}
{{- end -}}
