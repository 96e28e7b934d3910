"""Close OSVI chat sessions from Django, and never lose a summary."""

__version__ = "0.1.0.dev0"
