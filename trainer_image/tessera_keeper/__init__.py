"""The keeper: one process a node that holds its ranks' snapshots in memory, stores them, and copies them to another
node. It outlives the trainers; it knows no torch."""
