"""The use cases on both ends: copying tables, draining the slot, and the run that does both."""
