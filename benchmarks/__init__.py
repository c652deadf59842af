"""What is claimed about size and speed, measured beside what else a person could use."""
