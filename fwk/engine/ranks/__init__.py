"""Several processes: joining, collectives, agreement and the watchdog."""
