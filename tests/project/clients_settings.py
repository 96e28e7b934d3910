"""The example project with the tokens of docs/rest-clients.md."""

import os
import re
from pathlib import Path

from example_project.settings import *  # noqa: F403

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rest-clients.md"
BLOCK = re.compile(r"^```python\n(INSTALLED_APPS .*?)^```", re.MULTILINE | re.DOTALL)
(_CODE,) = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
exec(_CODE)  # noqa: S102 - as it is written there

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SECRET_KEY = os.environ["DJANGO_SECRET_KEY"]
