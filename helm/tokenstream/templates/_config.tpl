{{/* The two configuration files: the values' block, and what other values decide. */}}

{{/* Where things are mounted. */}}
{{- define "tokenstream.paths.config" -}}/etc/tokenstream/config{{- end -}}
{{- define "tokenstream.paths.keys" -}}/etc/tokenstream/keys{{- end -}}
{{- define "tokenstream.paths.tls" -}}/etc/tokenstream/tls{{- end -}}
{{- define "tokenstream.paths.upstreamCa" -}}/etc/tokenstream/upstream-ca{{- end -}}
{{- define "tokenstream.paths.upstreamCertificate" -}}/etc/tokenstream/upstream-certificate{{- end -}}
{{- define "tokenstream.paths.models" -}}/models{{- end -}}
{{- define "tokenstream.paths.cache" -}}/cache{{- end -}}

{{- define "tokenstream.model" -}}
{{- $model := .Values.model -}}
{{- if eq $model.source "hub" -}}
{{- $model.hub.id -}}
{{- else if and (eq $model.source "image") (eq $model.image.mount "copy") -}}
{{- include "tokenstream.paths.models" . -}}
{{- else if has $model.source (list "pvc" "image") -}}
{{- $path := (index $model $model.source).path -}}
{{- printf "%s/%s" (include "tokenstream.paths.models" .) (trimAll "/" $path) | trimSuffix "/" -}}
{{- else -}}
demo
{{- end -}}
{{- end -}}

{{/* (list tls folder): a server's settings of TLS, as a dict in JSON. */}}
{{- define "tokenstream.serverTls" -}}
{{- $tls := index . 0 -}}
{{- $folder := index . 1 -}}
{{- $made := dict -}}
{{- if $tls.secretName -}}
{{- $_ := set $made "tls_certificate_file" (printf "%s/%s" $folder $tls.certificateKey) -}}
{{- $_ := set $made "tls_private_key_file" (printf "%s/%s" $folder $tls.privateKeyKey) -}}
{{- with $tls.clientCaKey -}}
{{- $_ := set $made "tls_client_ca_file" (printf "%s/%s" $folder .) -}}
{{- end -}}
{{- else -}}
{{- $_ := set $made "allow_plaintext" true -}}
{{- end -}}
{{- toJson $made -}}
{{- end -}}

{{- define "tokenstream.serviceConfig" -}}
{{- $made := deepCopy .Values.config.service -}}
{{- $service := .Values.service -}}
{{- $_ := set $made "model" (include "tokenstream.model" .) -}}
{{- $_ := set $made "listen" (printf "%s:%d" .Values.bindAddress (int $service.ports.grpc)) -}}
{{- $_ := set $made "metrics_listen" (printf "%s:%d" .Values.bindAddress (int $service.ports.metrics)) -}}
{{- with .Values.auth.apiKeysSecret -}}
{{- if .name -}}
{{- $_ := set $made "api_keys_file" (printf "%s/%s" (include "tokenstream.paths.keys" $) .key) -}}
{{- end -}}
{{- end -}}
{{- if .Values.auth.allowAnonymous -}}
{{- $_ := set $made "allow_anonymous" true -}}
{{- end -}}
{{- if and (eq .Values.model.source "hub") .Values.model.hub.revision -}}
{{- $_ := set $made "engine_args" (merge (dict "revision" .Values.model.hub.revision) $made.engine_args) -}}
{{- end -}}
{{- $tls := include "tokenstream.serverTls" (list $service.tls (include "tokenstream.paths.tls" .)) | fromJson -}}
service:
  {{- toYaml (merge $made $tls) | nindent 2 }}
{{- end -}}

{{- define "tokenstream.upstreamAddress" -}}
{{- if .Values.service.enabled -}}
{{- printf "%s.%s.svc:%d" (include "tokenstream.named" (list . "service")) .Release.Namespace (int .Values.service.ports.grpc) -}}
{{- else -}}
{{- .Values.bridge.upstream.address -}}
{{- end -}}
{{- end -}}

{{/* "true" where the way to the service is encrypted. */}}
{{- define "tokenstream.upstreamTls" -}}
{{- $upstream := .Values.bridge.upstream -}}
{{- if ternary .Values.service.tls.secretName (or $upstream.tls $upstream.caSecretName) .Values.service.enabled -}}
true
{{- end -}}
{{- end -}}

{{/* Name of the Secret with the authorities of the service's certificate; may be empty. */}}
{{- define "tokenstream.upstreamCaSecret" -}}
{{- if and (include "tokenstream.upstreamTls" .) (not .Values.bridge.upstream.systemRoots) -}}
{{- default (ternary .Values.service.tls.secretName "" .Values.service.enabled) .Values.bridge.upstream.caSecretName -}}
{{- end -}}
{{- end -}}

{{- define "tokenstream.gatewayConfig" -}}
{{- $made := deepCopy .Values.config.gateway -}}
{{- $bridge := .Values.bridge -}}
{{- $upstream := $bridge.upstream -}}
{{- if not (hasKey $made "max_requests_per_client") -}}
{{- $_ := set $made "max_requests_per_client" nil -}}
{{- end -}}
{{- $_ := set $made "listen" (printf "%s:%d" .Values.bindAddress (int $bridge.ports.http)) -}}
{{- $_ := set $made "metrics_listen" (printf "%s:%d" .Values.bindAddress (int $bridge.ports.metrics)) -}}
{{- $_ := set $made "upstream" (include "tokenstream.upstreamAddress" .) -}}
{{- if include "tokenstream.upstreamTls" . -}}
{{- $_ := set $made "upstream_tls" true -}}
{{- if include "tokenstream.upstreamCaSecret" . -}}
{{- $_ := set $made "upstream_ca_file" (printf "%s/%s" (include "tokenstream.paths.upstreamCa" .) $upstream.caKey) -}}
{{- end -}}
{{- if $upstream.clientCertificateSecretName -}}
{{- $folder := include "tokenstream.paths.upstreamCertificate" . -}}
{{- $_ := set $made "upstream_certificate_file" (printf "%s/%s" $folder $upstream.certificateKey) -}}
{{- $_ := set $made "upstream_private_key_file" (printf "%s/%s" $folder $upstream.privateKeyKey) -}}
{{- end -}}
{{- end -}}
{{- if $upstream.allowPlaintextKeys -}}
{{- $_ := set $made "allow_plaintext_keys" true -}}
{{- end -}}
{{- $tls := include "tokenstream.serverTls" (list $bridge.tls (include "tokenstream.paths.tls" .)) | fromJson -}}
gateway:
  {{- toYaml (merge $made $tls) | nindent 2 }}
{{- end -}}

{{/* (list part drain): seconds from a pod's deletion to its last possible breath. Rounded up. */}}
{{- define "tokenstream.gracePeriod" -}}
{{- $part := index . 0 -}}
{{- $drain := index . 1 -}}
{{- $needed := addf (float64 $part.preStopSleepSeconds) (float64 (default 0 $drain.drain_wait_s)) (float64 (default 0 $drain.drain_grace_s)) (float64 $part.shutdownMarginSeconds) | ceil | int -}}
{{- default $needed $part.terminationGracePeriodSeconds | int -}}
{{- end -}}

{{/* "true" where `tokenstream generate` can connect from a pod of its own. */}}
{{- define "tokenstream.testable" -}}
{{- $values := .Values -}}
{{- $encrypted := include "tokenstream.upstreamTls" . -}}
{{- $keys := ternary $values.auth.apiKeysSecret.name $values.bridge.upstream.apiKeySecret.name $values.service.enabled -}}
{{- $asked := and $values.service.enabled $values.service.tls.clientCaKey (not $values.bridge.upstream.clientCertificateSecretName) -}}
{{- if and $values.tests.enabled (not $asked) (or (not $keys) (and $encrypted $values.tests.apiKeySecret.name)) -}}
true
{{- end -}}
{{- end -}}
