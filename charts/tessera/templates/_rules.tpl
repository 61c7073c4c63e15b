{{/*
What the operator may do where runs are. No right to read Secrets, to run commands in pods, or to pass on rights. A run's
key is created and never read.
*/}}
{{- define "tessera.rules" -}}
- {apiGroups: [tessera.dev], resources: [trainingruns, datasetbuilds], verbs: [get, list, watch]}
- {apiGroups: [tessera.dev], resources: [trainingruns], verbs: [delete]}   # ttlSecondsAfterFinished
- {apiGroups: [tessera.dev], resources: [trainingruns/status, datasetbuilds/status], verbs: [patch]}
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch, create, delete]}
- {apiGroups: [""], resources: [services], verbs: [get, create, patch]}
- {apiGroups: [""], resources: [configmaps], verbs: [get, create]}
- {apiGroups: [""], resources: [secrets], verbs: [create]}
- {apiGroups: [""], resources: [events], verbs: [create]}
- {apiGroups: [batch], resources: [jobs], verbs: [get, list, watch, create]}
{{- if eq .Values.gang.kind "kueue" }}
- {apiGroups: [kueue.x-k8s.io], resources: [workloads], verbs: [get, list, watch, create, delete]}
{{- else if eq .Values.gang.kind "volcano" }}
- {apiGroups: [scheduling.volcano.sh], resources: [podgroups], verbs: [get, create]}
{{- else if eq .Values.gang.kind "coscheduling" }}
- {apiGroups: [scheduling.x-k8s.io], resources: [podgroups], verbs: [get, create]}
{{- else if eq .Values.gang.kind "native" }}
- {apiGroups: [scheduling.k8s.io], resources: [workloads], verbs: [get, create]}
{{- end }}
{{- if .Values.networkPolicies }}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [get, create]}
{{- end }}
# Owner references that hold their owner back until the children are gone.
- {apiGroups: [tessera.dev], resources: [trainingruns/finalizers, datasetbuilds/finalizers], verbs: [update]}
{{- end }}
