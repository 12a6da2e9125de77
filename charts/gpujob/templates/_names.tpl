{{/* The name of everything that the chart makes. */}}
{{- define "gpujob.name" -}}
{{- $name := ternary .Release.Name (printf "%s-gpujob" .Release.Name) (contains "gpujob" .Release.Name) }}
{{- $name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "gpujob.serviceAccount" -}}
{{- if .Values.serviceAccount.name }}{{ .Values.serviceAccount.name }}{{ else if .Values.serviceAccount.create }}{{ include "gpujob.name" . }}{{ else }}default{{ end }}
{{- end }}

{{/* What selects the operator's pods. Never changes: a Deployment's selector is immutable. */}}
{{- define "gpujob.selector" -}}
app.kubernetes.io/name: gpujob
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "gpujob.labels" -}}
{{ include "gpujob.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}
