"""The operator: makes TrainingRuns and DatasetBuilds true on a Kubernetes cluster."""
