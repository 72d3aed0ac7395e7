{{- define "atoll.image" -}}
{{- $image := .Values.image -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- end -}}

{{/* What Services and Deployments select by. Argument: dict root, component. */}}
{{- define "atoll.selector" -}}
app.kubernetes.io/name: atoll
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Of pods: nothing that changes with the chart alone, or an upgrade would replace them. */}}
{{- define "atoll.podLabels" -}}
{{ include "atoll.selector" . }}
app.kubernetes.io/part-of: atoll
{{- end -}}

{{- define "atoll.labels" -}}
{{ include "atoll.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{/* What the restricted Pod Security Standard asks of a container, and a root that nobody writes to. */}}
{{- define "atoll.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- end -}}

{{- define "atoll.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "atoll.natsUrl" -}}
{{- if .Values.nats.url -}}
{{ .Values.nats.url }}
{{- else if .Values.nats.server.enabled -}}
nats://{{ .Release.Name }}-nats.{{ .Release.Namespace }}.svc:4222
{{- end -}}
{{- end -}}

{{- define "atoll.mqttUrl" -}}
{{- if .Values.mqtt.url -}}
{{ .Values.mqtt.url }}
{{- else if and .Values.nats.server.enabled (not .Values.nats.accounts.secret) -}}
mqtt://{{ .Release.Name }}-nats.{{ .Release.Namespace }}.svc:1883
{{- end -}}
{{- end -}}

{{/*
Brokers and store as JSON for a file of configuration: credentials are a file for who reads it, and a Secret's key in
their own namespace for functions.
*/}}
{{- define "atoll.connections" -}}
{{- $all := dict -}}
{{- $nats := include "atoll.natsUrl" . -}}
{{- if $nats -}}
{{- $_ := set $all "nats" (dict "url" $nats) -}}
{{- end -}}
{{- $mqtt := include "atoll.mqttUrl" . -}}
{{- if $mqtt -}}
{{- $_ := set $all "mqtt" (dict "url" $mqtt) -}}
{{- end -}}
{{- with .Values.s3 -}}
{{- if .endpoint -}}
{{- $_ := set $all "s3" (dict "endpoint" .endpoint "region" .region "bucket" .bucket) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.nats.accounts.secret .Values.nats.credentialsSecret -}}
{{- fail "nats.accounts.secret takes the place of nats.credentialsSecret: set one of them" -}}
{{- end -}}
{{- range $name, $connection := $all -}}
{{- with (index $.Values $name).tls -}}
{{- if .secret -}}
{{- $folder := printf "/etc/atoll/%s-tls" $name -}}
{{- $files := dict "ca" (printf "%s/ca.crt" $folder) -}}
{{- if .client -}}
{{- $_ := set $files "certificate" (printf "%s/tls.crt" $folder) -}}
{{- $_ := set $files "key" (printf "%s/tls.key" $folder) -}}
{{- end -}}
{{- $_ := set $connection "tls" $files -}}
{{- $_ := set $connection "tlsSecret" (dict "name" .secret "client" .client) -}}
{{- end -}}
{{- end -}}
{{- $secret := index $.Values $name "credentialsSecret" -}}
{{- if $secret -}}
{{- $key := printf "%s.json" $name -}}
{{- $_ := set $connection "credentials" (dict "name" $secret "key" $key) -}}
{{- if ne $name "s3" -}}
{{- $_ := set $connection "credentialsFile" (printf "/etc/atoll/%s" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ toJson $all }}
{{- end -}}

{{/* 288 is 0440, which not every reader of YAML takes for octal. */}}
{{/* A volume of configuration and credentials. Argument: dict root, config; of the gateway also s3, keys: Secrets; with accounts also accountsKey. */}}
{{- define "atoll.configVolume" -}}
- name: config
  projected:
    defaultMode: 288
    sources:
      - configMap: { name: {{ .config }} }
      {{- $values := .root.Values }}
      {{- range $name := list "nats" "mqtt" }}
      {{- with (index $values $name).tls }}
      {{- if .secret }}
      - secret:
          name: {{ .secret }}
          items:
            - { key: ca.crt, path: {{ $name }}-tls/ca.crt }
            {{- if .client }}
            - { key: tls.crt, path: {{ $name }}-tls/tls.crt }
            - { key: tls.key, path: {{ $name }}-tls/tls.key }
            {{- end }}
      {{- end }}
      {{- end }}
      {{- end }}
      {{- with .accountsKey }}
      - secret: { name: {{ $values.nats.accounts.secret }}, items: [{ key: {{ . }}, path: {{ . }} }] }
      {{- end }}
      {{- range $key, $secret := dict "nats.json" $values.nats.credentialsSecret "mqtt.json" $values.mqtt.credentialsSecret "s3.json" .s3 "keys" .keys }}
      {{- if $secret }}
      - secret: { name: {{ $secret }}, items: [{ key: {{ $key }}, path: {{ $key }} }] }
      {{- end }}
      {{- end }}
{{- end -}}

{{/* Replicas on different nodes where that can be. Argument: dict root, values, component. */}}
{{- define "atoll.scheduling" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "atoll.selector" . | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
The rules for all namespaces, or in each of those that are named. Argument: dict root, labels, name (also of the
ServiceAccount), rules: the name of a template of rules.
*/}}
{{- define "atoll.rights" -}}
{{- $root := .root -}}
{{- $arguments := . -}}
{{- $subject := dict "kind" "ServiceAccount" "name" .name "namespace" $root.Release.Namespace -}}
{{- if $root.Values.namespaces }}
{{- range $index, $namespace := $root.Values.namespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $arguments.name }}
  namespace: {{ $namespace }}
  labels: {{- $arguments.labels | nindent 4 }}
rules: {{- include $arguments.rules $root | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $arguments.name }}
  namespace: {{ $namespace }}
  labels: {{- $arguments.labels | nindent 4 }}
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $arguments.name }} }
subjects:
  - {{ toJson $subject }}
{{- end }}
{{- else }}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $root.Release.Namespace }}-{{ .name }}
  labels: {{- .labels | nindent 4 }}
rules: {{- include .rules $root | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $root.Release.Namespace }}-{{ .name }}
  labels: {{- .labels | nindent 4 }}
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ $root.Release.Namespace }}-{{ .name }} }
subjects:
  - {{ toJson $subject }}
{{- end }}
{{- end -}}
