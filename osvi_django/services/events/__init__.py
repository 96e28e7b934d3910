"""Events for other systems: an outbox, written with each fact, and its delivery as webhooks."""
