{{/* Everything below takes a service: the dict of "dapr.services", which has the root context as `root`. */}}

{{/* A service: svc is its name in annotations and values, app the value of its `app` label, v its values. */}}
{{- define "dapr.tag" -}}
{{ .Values.global.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "dapr.image" -}}
{{- if contains "/" .name }}{{ .name }}{{ else }}{{ .root.Values.global.registry }}/{{ .name }}:{{ include "dapr.tag" .root }}{{ end }}
{{- end }}

{{/* Labels of objects; texts of values are templates over the service's own values. */}}
{{- define "dapr.labels" -}}
{{- $global := mergeOverwrite (deepCopy .root.Values.global) (dict "tag" (include "dapr.tag" .root)) }}
{{- $context := dict "Values" (merge (dict "global" $global) .v) "Release" .root.Release "Chart" .root.Chart "Template" .root.Template }}
{{- range $key, $value := .root.Values.global.k8sLabels }}
{{ $key }}: {{ tpl (toString $value) $context | quote }}
{{- end }}
{{- end }}

{{- define "dapr.meta" -}}
name: {{ .name | default .app }}
namespace: {{ .root.Release.Namespace }}
labels:
  app: {{ .app }}
  {{- include "dapr.labels" . | trim | nindent 2 }}
{{- end }}

{{- define "dapr.sentryAddress" -}}
{{ .Values.global.mtls.sentryAddress | default (printf "dapr-sentry.%s.svc.cluster.local:443" .Release.Namespace) }}
{{- end }}

{{- define "dapr.pullSecrets" -}}
{{- $given := .Values.global.imagePullSecrets }}
{{- if $given }}
imagePullSecrets:
{{- if kindIs "string" $given }}
- name: {{ $given | quote }}
{{- else }}
{{- range $given }}
- name: {{ (kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") .) | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "dapr.prometheus" -}}
{{- if .Values.global.prometheus.enabled }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .Values.global.prometheus.port | quote }}
prometheus.io/path: /
{{- end }}
{{- end }}

{{- define "dapr.serviceMeta" -}}
{{- $annotations := merge (dict) (.annotations | default dict) (include "dapr.prometheus" .root | fromYaml) }}
{{- include "dapr.meta" . }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "dapr.metricsPort" -}}
{{- if .Values.global.prometheus.enabled }}
- {name: metrics, port: {{ .Values.global.prometheus.port }}, targetPort: {{ .Values.global.prometheus.port }}, protocol: TCP, appProtocol: http}
{{- end }}
{{- end }}

{{- define "dapr.podMeta" -}}
labels:
  app: {{ .app }}
  {{- include "dapr.labels" . | trim | nindent 2 }}
  {{- with .root.Values.global.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  dapr.io/control-plane: {{ .svc }}
  {{- with include "dapr.prometheus" .root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .v.deploymentAnnotations | default .v.statefulsetAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* What all pods of the control plane have, but their containers and volumes. */}}
{{- define "dapr.podBase" -}}
{{- $global := .root.Values.global }}
serviceAccountName: {{ .account }}
automountServiceAccountToken: {{ .asksApi }}
{{- include "dapr.pullSecrets" .root }}
{{- with $global.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $global.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $global.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
      - matchExpressions:
        - {key: kubernetes.io/os, operator: In, values: [{{ $global.daprControlPlaneOs }}]}
        {{- with $global.daprControlPlaneArch }}
        - {key: kubernetes.io/arch, operator: In, values: [{{ . }}]}
        {{- end }}
  {{- if .ha }}
  {{- $term := dict "labelSelector" (dict "matchExpressions" (list (dict "key" "app" "operator" "In" "values" (list .app)))) "topologyKey" $global.ha.topologyKey }}
  podAntiAffinity:
    {{- if eq $global.ha.podAntiAffinityPolicy "preferredDuringSchedulingIgnoredDuringExecution" }}
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm: {{ toYaml $term | nindent 8 }}
    {{- else if eq $global.ha.podAntiAffinityPolicy "requiredDuringSchedulingIgnoredDuringExecution" }}
    requiredDuringSchedulingIgnoredDuringExecution:
    - {{ toYaml $term | nindent 6 | trim }}
    {{- else }}
    {{- fail (printf "global.ha.podAntiAffinityPolicy is %q: give preferredDuringSchedulingIgnoredDuringExecution or requiredDuringSchedulingIgnoredDuringExecution" $global.ha.podAntiAffinityPolicy) }}
    {{- end }}
  {{- end }}
{{- with get ($global.initContainers | default dict) .svc }}
initContainers:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{/* What all containers of the control plane have, but arguments and ports. */}}
{{- define "dapr.container" -}}
{{- $nonRoot := .nonRoot }}
name: {{ .app }}
image: {{ include "dapr.image" (dict "root" .root "name" (.image | default .v.image.name)) | quote }}
imagePullPolicy: {{ .root.Values.global.imagePullPolicy }}
command: [/{{ .svc }}]
securityContext:
  runAsNonRoot: {{ $nonRoot }}
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  {{- with .root.Values.global.seccompProfile }}
  seccompProfile: {type: {{ . }}}
  {{- end }}
{{- with .v.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $kind := list "liveness" "readiness" }}
{{ $kind }}Probe:
  httpGet: {path: /healthz, port: {{ $.healthPort | default 8080 }}}
  {{- toYaml (get $.v (print $kind "Probe")) | nindent 2 }}
{{- end }}
{{- if and .drains (semverCompare ">=1.30.0-0" .root.Capabilities.KubeVersion.Version) }}
# New calls go to the next pod before this one stops taking them in.
lifecycle: {preStop: {sleep: {seconds: 3}}}
{{- end }}
{{- end }}

{{- define "dapr.commonArgs" -}}
- --log-level
- {{ .v.logLevel | quote }}
{{- if .root.Values.global.logAsJson }}
- --log-as-json
{{- end }}
{{- if .root.Values.global.prometheus.enabled }}
- --enable-metrics
- --metrics-port
- {{ .root.Values.global.prometheus.port | quote }}
{{- else }}
- --enable-metrics=false
{{- end }}
{{- end }}

{{- define "dapr.env" -}}
- {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
{{- range $name, $value := .v.extraEnvVars }}
- {name: {{ $name }}, value: {{ toString $value | quote }}}
{{- end }}
{{- end }}

{{/* The authority's certificate and a token that only sentry accepts. */}}
{{- define "dapr.identityVolumes" -}}
- name: dapr-trust-bundle
  configMap: {name: dapr-trust-bundle}
{{- if .root.Values.global.mtls.mountSentryVolume }}
- name: dapr-identity-token
  projected:
    sources:
    - serviceAccountToken:
        path: token
        expirationSeconds: 600
        audience: spiffe://{{ .root.Values.global.mtls.controlPlaneTrustDomain }}/ns/{{ .root.Release.Namespace }}/dapr-sentry
{{- end }}
{{- include "dapr.extraVolumes" . }}
{{- end }}

{{- define "dapr.identityMounts" -}}
- {name: dapr-trust-bundle, mountPath: /var/run/secrets/dapr.io/tls, readOnly: true}
{{- if .root.Values.global.mtls.mountSentryVolume }}
- {name: dapr-identity-token, mountPath: /var/run/secrets/dapr.io/sentrytoken, readOnly: true}
{{- end }}
{{- include "dapr.extraMounts" . }}
{{- end }}

{{- define "dapr.extraVolumes" -}}
{{- with get (.root.Values.global.extraVolumes | default dict) .svc }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "dapr.extraMounts" -}}
{{- with get (.root.Values.global.extraVolumeMounts | default dict) .svc }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* After ours: tools read the version off the first container. */}}
{{- define "dapr.extraContainers" -}}
{{- with get (.root.Values.global.extraContainers | default dict) .svc }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "dapr.tlsArgs" -}}
- --tls-enabled
- --trust-domain={{ .Values.global.mtls.controlPlaneTrustDomain }}
- --trust-anchors-file=/var/run/secrets/dapr.io/tls/ca.crt
- --sentry-address={{ include "dapr.sentryAddress" . }}
- --mode=kubernetes
{{- end }}

{{- define "dapr.metricsContainerPort" -}}
{{- if .Values.global.prometheus.enabled }}
- {name: metrics, containerPort: {{ .Values.global.prometheus.port }}, protocol: TCP}
{{- end }}
{{- end }}

{{- define "dapr.disruption" -}}
{{- $limits := .root.Values.global.ha.disruption }}
{{- if not (or $limits.minimumAvailable $limits.maximumUnavailable) }}
{{- fail "global.ha.disruption: give minimumAvailable or maximumUnavailable" }}
{{- end }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "dapr.meta" . | nindent 2 }}
spec:
  {{- with $limits.minimumAvailable }}
  minAvailable: {{ . }}
  {{- end }}
  {{- with $limits.maximumUnavailable }}
  maxUnavailable: {{ . }}
  {{- end }}
  selector:
    matchLabels: {app: {{ .app }}}
{{- end }}

{{/* Whether the API server sends us only pods that ask for a sidecar. */}}
{{- define "dapr.matchConditions" -}}
{{- if semverCompare ">=1.28.0-0" .Capabilities.KubeVersion.Version }}true{{ end }}
{{- end }}

{{/* What was asked to be zero stays so in HA mode. */}}
{{- define "dapr.replicas" -}}
{{- if and .ha (gt (int .v.replicaCount) 0) }}{{ .root.Values.global.ha.replicaCount }}{{ else }}{{ .v.replicaCount }}{{ end }}
{{- end }}

{{- define "dapr.placementReplicas" -}}
{{- if .Values.dapr_placement.scaleZero }}0{{ else if or .Values.global.ha.enabled .Values.dapr_placement.ha }}3{{ else }}1{{ end }}
{{- end }}

{{- define "dapr.schedulerReplicas" -}}
{{- if .Values.dapr_scheduler.etcdEmbed }}1{{ else }}{{ .Values.dapr_scheduler.replicaCount }}{{ end }}
{{- end }}
