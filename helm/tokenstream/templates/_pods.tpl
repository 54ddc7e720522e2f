{{/* What the pods of both parts and of the test have in common. */}}

{{- define "tokenstream.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int .Values.securityContext.runAsUser }}
runAsGroup: {{ int .Values.securityContext.runAsGroup }}
fsGroup: {{ int .Values.securityContext.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "tokenstream.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "tokenstream.pullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Where pods go: (list $ "bridge"). */}}
{{- define "tokenstream.placement" -}}
{{- $root := index . 0 -}}
{{- $part := index $root.Values (index . 1) -}}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - topologyKey: {{ .topologyKey }}
    # Each version by itself, or a rollout would end lopsided.
    matchLabelKeys: [pod-template-hash]
    maxSkew: {{ .maxSkew | default 1 | int }}
    whenUnsatisfiable: {{ .whenUnsatisfiable | default "ScheduleAnyway" }}
    labelSelector:
      matchLabels:
        {{- include "tokenstream.selectorLabels" (list $root (index $ 1)) | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of a part's pods: (list $ "bridge" "its configuration"). */}}
{{- define "tokenstream.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $part := index $root.Values (index . 1) -}}
labels:
  {{- include "tokenstream.labels" (list $root (index . 1) $part.podLabels) | nindent 2 }}
annotations:
  # So that a new configuration is a rollout.
  tokenstream/config: {{ index . 2 | sha256sum | trunc 32 }}
  {{- with merge (dict) $part.podAnnotations $root.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "tokenstream.preStop" -}}
{{- if gt (int .preStopSleepSeconds) 0 -}}
lifecycle:
  preStop:
    sleep:
      seconds: {{ int .preStopSleepSeconds }}
{{- end }}
{{- end -}}

{{/* (list probe check), timing and check together; startup's budget becomes a number of tries. */}}
{{- define "tokenstream.startupProbe" -}}
{{- $probe := index . 0 -}}
{{ index . 1 }}
periodSeconds: {{ int $probe.periodSeconds }}
timeoutSeconds: 5
failureThreshold: {{ max 1 (ceil (divf (float64 $probe.budgetSeconds) (float64 $probe.periodSeconds)) | int) }}
{{- end -}}

{{- define "tokenstream.probe" -}}
{{- $probe := index . 0 -}}
{{ index . 1 }}
periodSeconds: {{ int $probe.periodSeconds }}
timeoutSeconds: {{ int $probe.timeoutSeconds }}
failureThreshold: {{ int $probe.failureThreshold }}
{{- end -}}

{{/* A mounted Secret: (list "volume" "secret"). */}}
{{- define "tokenstream.secretVolume" -}}
- name: {{ index . 0 }}
  secret:
    secretName: {{ index . 1 }}
    defaultMode: 0440
{{- end -}}

{{/* How the service is asked: (list $ "health service of gRPC" "path on the port for operators"). */}}
{{- define "tokenstream.serviceCheck" -}}
{{- $service := (index . 0).Values.service -}}
{{- if $service.tls.secretName -}}
# Kubernetes' gRPC probes speak no TLS; the port for operators says the same in plain HTTP.
httpGet:
  path: {{ index . 2 }}
  port: metrics
{{- else -}}
grpc:
  port: {{ int $service.ports.grpc }}
  service: {{ index . 1 | quote }}
{{- end -}}
{{- end -}}

{{/* How the bridge is asked: (list $ "/readyz"). */}}
{{- define "tokenstream.bridgeCheck" -}}
{{- $tls := (index . 0).Values.bridge.tls -}}
{{- if $tls.clientCaKey -}}
# Kubernetes' probes have no certificate to show; the port for operators says the same.
httpGet:
  path: {{ index . 1 }}
  port: metrics
{{- else -}}
httpGet:
  path: {{ index . 1 }}
  port: http
  scheme: {{ ternary "HTTPS" "HTTP" (ne $tls.secretName "") }}
{{- end -}}
{{- end -}}
