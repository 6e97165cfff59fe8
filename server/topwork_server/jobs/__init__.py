"""Long work in child processes: its queue, records, progress and cancellation."""
