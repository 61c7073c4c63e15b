"""The coordinator: who is in the run, its log and its journal. Operator room; never imports torch."""
