{{/* Values that contradict each other. Each line names what to change. */}}

{{- define "tokenstream.check" -}}
{{- $values := .Values -}}
{{- if not (or $values.service.enabled $values.bridge.enabled) -}}
{{- fail "service.enabled and bridge.enabled are both false: nothing would be installed" -}}
{{- end -}}
{{- if and $values.metrics.serviceMonitor.enabled $values.networkPolicy.enabled (not $values.networkPolicy.metricsFrom) -}}
{{- fail "networkPolicy.metricsFrom: who is Prometheus? With metrics.serviceMonitor.enabled, name whom the ports for operators are open to, such as its namespace" -}}
{{- end -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" (include "tokenstream.fullname" .)) -}}
{{- fail (printf "names of Services would begin with %q, and Kubernetes takes only those that begin with a letter and have no dots: choose another name for the release, or set fullnameOverride" (include "tokenstream.fullname" .)) -}}
{{- end -}}
{{- $monitor := $values.metrics.serviceMonitor -}}
{{- if and $monitor.enabled (gt (include "tokenstream.milliseconds" $monitor.scrapeTimeout | int64) (include "tokenstream.milliseconds" $monitor.interval | int64)) -}}
{{- fail (printf "metrics.serviceMonitor.scrapeTimeout (%s) is above metrics.serviceMonitor.interval (%s), which Prometheus refuses" $monitor.scrapeTimeout $monitor.interval) -}}
{{- end -}}
{{- $both := and $values.service.enabled $values.bridge.enabled -}}
{{- $made := and $values.service.serviceAccount.create $values.bridge.serviceAccount.create -}}
{{- if and $both $made (eq (include "tokenstream.serviceAccountName" (list . "service")) (include "tokenstream.serviceAccountName" (list . "bridge"))) -}}
{{- fail "service.serviceAccount.name and bridge.serviceAccount.name are the same: set serviceAccount.create=false for one of the two" -}}
{{- end -}}
{{- if $values.service.enabled -}}
{{- include "tokenstream.checkService" . -}}
{{- end -}}
{{- if $values.bridge.enabled -}}
{{- include "tokenstream.checkBridge" . -}}
{{- end -}}
{{- end -}}

{{/* A duration such as 1m30s, in milliseconds. */}}
{{- define "tokenstream.milliseconds" -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" . -1 -}}
{{- $unit := index (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) (regexFind "[a-z]+" .) -}}
{{- $sum = add $sum (mul (regexFind "[0-9]+" . | int64) $unit) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* A quantity such as 1.5Gi, in bytes. */}}
{{- define "tokenstream.bytes" -}}
{{- if kindIs "string" . -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (index $units (regexFind "[A-Za-z]*$" .)) | int64 -}}
{{- else -}}
{{- int64 . -}}
{{- end -}}
{{- end -}}

{{- define "tokenstream.checkService" -}}
{{- $values := .Values -}}
{{- $service := $values.service -}}
{{- $config := $values.config.service -}}
{{- include "tokenstream.checkPart" (list . "service" "service") -}}
{{- if and $values.auth.apiKeysSecret.name $values.auth.allowAnonymous -}}
{{- fail "auth.apiKeysSecret.name and auth.allowAnonymous contradict each other: leave one out" -}}
{{- end -}}
{{- if not (or $values.auth.apiKeysSecret.name $values.auth.allowAnonymous) -}}
{{- fail "auth: who may call? Name the Secret with the file of API keys (auth.apiKeysSecret.name), or set auth.allowAnonymous=true to serve whoever reaches the port" -}}
{{- end -}}
{{- if eq (int $service.ports.grpc) (int $service.ports.metrics) -}}
{{- fail (printf "service.ports.grpc and service.ports.metrics are both %d" (int $service.ports.grpc)) -}}
{{- end -}}
{{- include "tokenstream.checkModel" . -}}
{{- if and (hasKey $config "low_mark") (hasKey $config "high_mark") -}}
{{- if ge (int $config.low_mark) (int $config.high_mark) -}}
{{- fail (printf "config.service.low_mark (%d) must be below config.service.high_mark (%d)" (int $config.low_mark) (int $config.high_mark)) -}}
{{- end -}}
{{- end -}}
{{- $args := default dict $config.engine_args -}}
{{- $workers := mul (default 1 $args.tensor_parallel_size | int) (default 1 $args.pipeline_parallel_size | int) (default 1 $args.data_parallel_size | int) | int -}}
{{- if and (gt (int $service.gpu.count) 0) (ne $workers (int $service.gpu.count)) -}}
{{- fail (printf "service.gpu.count is %d, but config.service.engine_args has tensor x pipeline x data parallel size = %d: make them the same" (int $service.gpu.count) $workers) -}}
{{- end -}}
{{- range $kind := list "requests" "limits" -}}
{{- if hasKey (default dict (index $service.resources $kind)) $service.gpu.resource -}}
{{- fail (printf "service.resources.%s names %s: say how many in service.gpu.count" $kind $service.gpu.resource) -}}
{{- end -}}
{{- end -}}
{{- $memory := (default dict $service.resources.limits).memory -}}
{{- if $memory -}}
{{- if gt (include "tokenstream.bytes" $service.sharedMemory.sizeLimit | int64) (include "tokenstream.bytes" $memory | int64) -}}
{{- fail (printf "service.sharedMemory.sizeLimit (%v) is above service.resources.limits.memory (%v), which it counts towards" $service.sharedMemory.sizeLimit $memory) -}}
{{- end -}}
{{- end -}}
{{- if and $service.cache.claimName $service.cache.sizeLimit -}}
{{- fail "service.cache.sizeLimit is of the node's folder; with service.cache.claimName the claim has the size" -}}
{{- end -}}
{{- if and (not $service.cache.claimName) (ne $service.cache.accessMode "ReadWriteOnce") -}}
{{- fail "service.cache.accessMode is that of a claim, but service.cache.claimName is empty" -}}
{{- end -}}
{{- $surges := ne (toString $service.strategy.maxSurge | trimSuffix "%") "0" -}}
{{- $several := or $surges $service.autoscaling.enabled (gt (int $service.replicas) 1) -}}
{{- if and $service.cache.claimName (eq $service.cache.accessMode "ReadWriteOnce") $several -}}
{{- fail "service.cache.claimName is ReadWriteOnce, so a second pod on another node would wait for it forever: take one replica, no autoscaling and service.strategy.maxSurge=0 (with maxUnavailable=1), or say service.cache.accessMode=ReadWriteMany where the claim is that" -}}
{{- end -}}
{{- if and $service.grpcRoute.enabled (not $service.grpcRoute.parentRefs) -}}
{{- fail "service.grpcRoute.enabled needs service.grpcRoute.parentRefs: which gateway?" -}}
{{- end -}}
{{- $policy := $values.networkPolicy -}}
{{- $outside := or $service.grpcRoute.enabled (ne $service.service.type "ClusterIP") -}}
{{- if and $policy.enabled $outside (has (toJson $policy.serviceFrom) (list "[]" "[{\"podSelector\":{}}]")) -}}
{{- fail (printf "networkPolicy.serviceFrom lets in only pods of the namespace, but service.grpcRoute.enabled=%t and service.service.type=%s are for callers from elsewhere: name the gateway's namespace or the callers' addresses" $service.grpcRoute.enabled $service.service.type) -}}
{{- end -}}
{{- if $service.autoscaling.enabled -}}
{{- if and (eq $service.autoscaling.kind "keda") (not $service.autoscaling.keda.serverAddress) -}}
{{- fail "service.autoscaling.keda.serverAddress: where is Prometheus?" -}}
{{- end -}}
{{- $own := and $service.autoscaling.keda.query $service.autoscaling.keda.runningQuery -}}
{{- if and (eq $service.autoscaling.kind "keda") (not $own) (not $values.metrics.serviceMonitor.enabled) -}}
{{- fail "service.autoscaling.kind=keda needs metrics.serviceMonitor.enabled=true, whose targets its queries read, or queries of your own (service.autoscaling.keda.query and service.autoscaling.keda.runningQuery)" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tokenstream.checkModel" -}}
{{- $model := .Values.model -}}
{{- $wanted := dict "hub" "id" "pvc" "claimName" "image" "reference" -}}
{{- range $source, $field := $wanted -}}
{{- $given := index (index $model $source) $field -}}
{{- if and (eq $model.source $source) (not $given) -}}
{{- fail (printf "model.source is %s, so model.%s.%s is needed" $source $source $field) -}}
{{- end -}}
{{- if and (ne $model.source $source) $given -}}
{{- fail (printf "model.source is %s, but model.%s.%s is set: which one?" $model.source $source $field) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $model.source "hub") $model.hub.revision (hasKey (default dict .Values.config.service.engine_args) "revision") -}}
{{- fail "model.hub.revision and config.service.engine_args.revision contradict each other: leave one out" -}}
{{- end -}}
{{- if and (eq $model.source "image") (eq $model.image.mount "copy") (not (hasPrefix "/" $model.image.path)) -}}
{{- fail "model.image.mount is copy, so model.image.path must be an absolute path in the image" -}}
{{- end -}}
{{- end -}}

{{- define "tokenstream.checkBridge" -}}
{{- $values := .Values -}}
{{- $bridge := $values.bridge -}}
{{- $upstream := $bridge.upstream -}}
{{- include "tokenstream.checkPart" (list . "bridge" "gateway") -}}
{{- if eq (int $bridge.ports.http) (int $bridge.ports.metrics) -}}
{{- fail (printf "bridge.ports.http and bridge.ports.metrics are both %d" (int $bridge.ports.http)) -}}
{{- end -}}
{{- if $values.service.enabled -}}
{{- if $upstream.address -}}
{{- fail "bridge.upstream.address is for a service elsewhere; with service.enabled the bridge goes to this release's" -}}
{{- end -}}
{{- if and (or $upstream.tls $upstream.caSecretName) (not $values.service.tls.secretName) -}}
{{- fail "bridge.upstream asks for TLS, but service.tls.secretName is empty" -}}
{{- end -}}
{{- if and $values.service.tls.clientCaKey (not $upstream.clientCertificateSecretName) -}}
{{- fail "service.tls.clientCaKey asks clients for certificates: the bridge needs one too (bridge.upstream.clientCertificateSecretName)" -}}
{{- end -}}
{{- else if not $upstream.address -}}
{{- fail "bridge.upstream.address: where is the service? This release has none (service.enabled=false)" -}}
{{- end -}}
{{- if and $upstream.systemRoots $upstream.caSecretName -}}
{{- fail "bridge.upstream.systemRoots and bridge.upstream.caSecretName contradict each other: leave one out" -}}
{{- end -}}
{{- if and $upstream.systemRoots (not (include "tokenstream.upstreamTls" .)) -}}
{{- fail "bridge.upstream.systemRoots is of use only with TLS to the service" -}}
{{- end -}}
{{- if and $upstream.clientCertificateSecretName (not (include "tokenstream.upstreamTls" .)) -}}
{{- fail "bridge.upstream.clientCertificateSecretName is of use only with TLS to the service" -}}
{{- end -}}
{{- $keys := or $upstream.apiKeySecret.name (and $values.service.enabled $values.auth.apiKeysSecret.name) -}}
{{- if and $keys (not (include "tokenstream.upstreamTls" .)) (not $upstream.allowPlaintextKeys) -}}
{{- fail "API keys would go from the bridge to the service in plain text: encrypt that way (service.tls.secretName, or bridge.upstream.tls), or set bridge.upstream.allowPlaintextKeys=true where something else encrypts" -}}
{{- end -}}
{{- if and $bridge.ingress.enabled (not $bridge.ingress.hosts) -}}
{{- fail "bridge.ingress.enabled needs bridge.ingress.hosts" -}}
{{- end -}}
{{- if and $bridge.httpRoute.enabled (not $bridge.httpRoute.parentRefs) -}}
{{- fail "bridge.httpRoute.enabled needs bridge.httpRoute.parentRefs: which gateway?" -}}
{{- end -}}
{{- if and $bridge.autoscaling.enabled (not (hasKey (default dict $bridge.resources.requests) "cpu")) -}}
{{- fail "bridge.autoscaling follows the use of requested CPU: it needs bridge.resources.requests.cpu" -}}
{{- end -}}
{{- end -}}

{{/* What both parts can get wrong: (list $ "bridge" "gateway"). */}}
{{- define "tokenstream.checkPart" -}}
{{- $name := index . 1 -}}
{{- $part := index (index . 0).Values $name -}}
{{- $section := index . 2 -}}
{{- $drain := index (index . 0).Values.config $section -}}
{{- if and $part.tls.secretName $part.tls.allowPlaintext -}}
{{- fail (printf "%s.tls.secretName and %s.tls.allowPlaintext contradict each other: leave one out" $name $name) -}}
{{- end -}}
{{- if not (or $part.tls.secretName $part.tls.allowPlaintext) -}}
{{- fail (printf "%s.tls: may the network read along? Name the Secret with a certificate (%s.tls.secretName), or set %s.tls.allowPlaintext=true where something else encrypts" $name $name $name) -}}
{{- end -}}
{{- if and $part.tls.clientCaKey (not $part.tls.secretName) -}}
{{- fail (printf "%s.tls.clientCaKey is a key of %s.tls.secretName, which is empty" $name $name) -}}
{{- end -}}
{{- $needed := include "tokenstream.gracePeriod" (list (omit $part "terminationGracePeriodSeconds") $drain) | int -}}
{{- if and $part.terminationGracePeriodSeconds (lt (int $part.terminationGracePeriodSeconds) $needed) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds (%d) is less than its drain takes: %d = preStopSleepSeconds + config.%s.drain_wait_s + drain_grace_s + shutdownMarginSeconds" $name (int $part.terminationGracePeriodSeconds) $needed $section) -}}
{{- end -}}
{{- $budget := $part.podDisruptionBudget -}}
{{- $least := ne (toString $budget.minAvailable) "<nil>" -}}
{{- $most := ne (toString $budget.maxUnavailable) "<nil>" -}}
{{- if and $budget.enabled (eq $least $most) -}}
{{- fail (printf "%s.podDisruptionBudget takes one of minAvailable and maxUnavailable" $name) -}}
{{- end -}}
{{- if and (eq (toString $part.strategy.maxSurge) "0") (eq (toString $part.strategy.maxUnavailable) "0") -}}
{{- fail (printf "%s.strategy: maxSurge and maxUnavailable are both 0, so no rollout could begin" $name) -}}
{{- end -}}
{{- if and $part.autoscaling.enabled (gt (int $part.autoscaling.minReplicas) (int $part.autoscaling.maxReplicas)) -}}
{{- fail (printf "%s.autoscaling.minReplicas (%d) is above maxReplicas (%d)" $name (int $part.autoscaling.minReplicas) (int $part.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- include "tokenstream.checkWayIn" (list $name $part.service) -}}
{{- include "tokenstream.checkExtras" (list $name $part) -}}
{{- if or (hasKey $part.podAnnotations "tokenstream/config") (hasKey (index . 0).Values.commonAnnotations "tokenstream/config") -}}
{{- fail (printf "%s.podAnnotations and commonAnnotations cannot have tokenstream/config: the chart sets it itself" $name) -}}
{{- end -}}
{{- end -}}

{{/* The Service that callers use: (list "bridge" service). */}}
{{- define "tokenstream.checkWayIn" -}}
{{- $name := index . 0 -}}
{{- $service := index . 1 -}}
{{- if and $service.externalTrafficPolicy (eq $service.type "ClusterIP") -}}
{{- fail (printf "%s.service.externalTrafficPolicy is for the types NodePort and LoadBalancer, but %s.service.type is ClusterIP" $name $name) -}}
{{- end -}}
{{- range $field := list "loadBalancerSourceRanges" "loadBalancerClass" -}}
{{- if and (index $service $field) (ne $service.type "LoadBalancer") -}}
{{- fail (printf "%s.service.%s is for the type LoadBalancer, but %s.service.type is %s" $name $field $name $service.type) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What a user adds to a part's pods: (list "bridge" part). */}}
{{- define "tokenstream.checkExtras" -}}
{{- $name := index . 0 -}}
{{- $part := index . 1 -}}
{{- range $part.extraEnv -}}
{{- if regexMatch "^(TOKENSTREAM_.*|HOME|HF_TOKEN|HF_HUB_OFFLINE|VLLM_NO_USAGE_STATS)$" .name -}}
{{- fail (printf "%s.extraEnv cannot set %s, which the chart decides: settings of tokenstream belong into config, the hub's token into model.hub.tokenSecret" $name .name) -}}
{{- end -}}
{{- end -}}
{{- $volumes := list -}}
{{- range $part.extraVolumes -}}
{{- if has .name (list "config" "tmp" "cache" "shm" "model" "keys" "tls" "upstream-ca" "upstream-certificate") -}}
{{- fail (printf "%s.extraVolumes: %s is the name of a volume of the chart's own" $name .name) -}}
{{- end -}}
{{- if has .name $volumes -}}
{{- fail (printf "%s.extraVolumes has %s more than once" $name .name) -}}
{{- end -}}
{{- $volumes = append $volumes .name -}}
{{- end -}}
{{- $own := ternary (list "/etc/tokenstream" "/tmp" "/cache" "/dev/shm" "/models") (list "/etc/tokenstream" "/tmp") (eq $name "service") -}}
{{- $paths := list -}}
{{- range $part.extraVolumeMounts -}}
{{- if not (has .name $volumes) -}}
{{- fail (printf "%s.extraVolumeMounts: %s is none of %s.extraVolumes" $name .name $name) -}}
{{- end -}}
{{- $path := clean .mountPath -}}
{{- if has $path $paths -}}
{{- fail (printf "%s.extraVolumeMounts has the path %s more than once" $name $path) -}}
{{- end -}}
{{- $paths = append $paths $path -}}
{{- if hasPrefix "/etc/tokenstream/" $path -}}
{{- fail (printf "%s.extraVolumeMounts: %s is below /etc/tokenstream, where the chart keeps what it mounts itself" $name $path) -}}
{{- end -}}
{{- range $taken := $own -}}
{{- if hasPrefix (printf "%s/" (trimSuffix "/" $path)) (printf "%s/" $taken) -}}
{{- fail (printf "%s.extraVolumeMounts: %s would cover %s, which the chart mounts itself" $name $path $taken) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
