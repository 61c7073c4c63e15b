"""Decisions: from what was observed to what is to be done. Pure: no clock, no network; time comes in as a value."""
