"""Close sessions while processes are killed, databases stop and answers are lost."""
