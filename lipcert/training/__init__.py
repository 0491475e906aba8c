"""Training: Lightning module, schedules, callbacks and metrics."""
