"""Jobs run by threads, by queues and by real workers that are killed."""
