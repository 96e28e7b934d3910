"""Self-signed certificates for servers of this machine."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def make_certificate(folder, names):
    """Make a certificate for these names; return the paths of it and of its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key}"
    options = ["-out", str(certificate), "-addext", f"subjectAltName={names}"]
    subprocess.run([openssl, *command.split(), *options], check=True, capture_output=True)
    return certificate, key
