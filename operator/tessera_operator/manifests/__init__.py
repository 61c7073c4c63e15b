"""The objects that the operator makes, as values: from a run or a build to the documents that are applied."""
