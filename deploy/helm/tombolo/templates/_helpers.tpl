{{/* Labels of an object. Give (list $ component). */}}
{{- define "tombolo.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/part-of: tombolo
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What selects the pods of a component. Give (list $ component). */}}
{{- define "tombolo.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{- define "tombolo.image" -}}
{{- $root := index . 0 -}}
{{ $root.Values.image.registry }}/{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{- define "tombolo.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where pods run. Give (list $ component values). */}}
{{- define "tombolo.scheduling" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index . 2 -}}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.affinity }}
affinity:
  {{- toYaml $values.affinity | nindent 2 }}
{{- else if ne $component "tombolo-cni" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "tombolo.selector" (list $root $component) | nindent 14 }}
{{- end }}
{{- end }}

{{/* What the restricted Pod Security level asks of a container. */}}
{{- define "tombolo.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The values of one mesh's ingress: the common ones with its own. Give (list $ mesh). */}}
{{- define "tombolo.ingress" -}}
{{- $common := omit (index . 0).Values.ingress "meshes" "enabled" | deepCopy -}}
{{- mergeOverwrite $common (index . 1) | toYaml -}}
{{- end }}

{{/* Mistakes that a schema cannot tell. */}}
{{- define "tombolo.check" -}}
{{- $zone := .Values.zone -}}
{{- if $zone.enabled -}}
{{- if ne .Release.Namespace "tombolo-system" -}}
{{- fail (printf "a zone must be installed in the namespace tombolo-system, not %q: what is written there is the operator's, to other zones and to global too" .Release.Namespace) -}}
{{- end -}}
{{- $_ := required "zone.name is required: the name of this zone, as east" $zone.name -}}
{{- if and $zone.global.address (not $zone.global.token) (not $zone.global.existingSecret) -}}
{{- fail "zone.global.token or zone.global.existingSecret is required to join zone.global.address: make one with `tombolo token create zone --zone NAME`" -}}
{{- end -}}
{{- if and $zone.global.token $zone.global.existingSecret -}}
{{- fail "zone.global.token and zone.global.existingSecret must not both be given" -}}
{{- end -}}
{{- if gt (len (compact (list $zone.global.ca $zone.global.existingCAConfigMap $zone.global.existingCASecret))) 1 -}}
{{- fail "only one of zone.global.ca, zone.global.existingCAConfigMap and zone.global.existingCASecret may be given" -}}
{{- end -}}
{{- end -}}
{{- if .Values.globalControlPlane.enabled -}}
{{- $global := .Values.globalControlPlane -}}
{{- $_ := required "globalControlPlane.postgres.existingSecret is required: a Secret with the database's DSN" $global.postgres.existingSecret -}}
{{- $_ := required "globalControlPlane.secretsKey.existingSecret is required: a Secret with the keys that encrypt Secrets" $global.secretsKey.existingSecret -}}
{{- $_ := required "globalControlPlane.tls.existingSecret is required: a Secret with the server's certificate" $global.tls.existingSecret -}}
{{- end -}}
{{- end }}
