"""An app of a host's, with the recipe of docs/executors.md in it."""
