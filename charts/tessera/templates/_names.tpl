{{/* What everything of this installation is called, or begins with. */}}
{{- define "tessera.name" -}}
{{ .Values.fullnameOverride | default .Release.Name }}
{{- end -}}

{{/* Labels of every object, as JSON; "more" are its own. */}}
{{- define "tessera.labels" -}}
{{- $ours := dict "app.kubernetes.io/name" "tessera" "app.kubernetes.io/instance" .root.Release.Name "app.kubernetes.io/version" .root.Chart.AppVersion "app.kubernetes.io/part-of" "tessera" "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version) -}}
{{ toJson (merge (dict) (.more | default dict) $ours .root.Values.commonLabels) }}
{{- end -}}

{{/* An image, from the registry that stands for all of them if one does. */}}
{{- define "tessera.image" -}}
{{- with .root.Values.global.imageRegistry -}}{{ . | trimSuffix "/" }}/{{- end -}}{{ .image }}
{{- end -}}
