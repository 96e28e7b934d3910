"""An app of a host, with the recipe of docs/jobs.md."""
