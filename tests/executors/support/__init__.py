"""An app of a host's, with the recipe of docs/jobs.md in it."""
