"""The fleet server: it knows what each device runs, and schedules the roll-out of signed releases."""
