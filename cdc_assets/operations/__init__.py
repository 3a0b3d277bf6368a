"""What an operator asks of a pipeline besides a sync: its problems, its state, its removal."""
