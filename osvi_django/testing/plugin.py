"""Pytest fixtures for hosts and for this project's own tests; pytest loads them by itself."""
