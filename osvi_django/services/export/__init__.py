"""Export sessions as files: CSV, JSON Lines and Excel.

``columns.py`` says what is in a row, ``reading.py`` reads the rows, ``cells.py``, ``formats.py``
and ``workbook.py`` write them, ``service.py`` checks the permission and keeps the history, and
``responses.py`` streams a file over HTTP.
"""

from osvi_django.services.export.responses import file_response, head_response
from osvi_django.services.export.service import CONTENT_TYPES, Export, export_sessions
from osvi_django.services.export.workbook import is_xlsx_installed

__all__ = [
    "CONTENT_TYPES",
    "Export",
    "export_sessions",
    "file_response",
    "head_response",
    "is_xlsx_installed",
]
