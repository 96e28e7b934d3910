"""OSVI over HTTP. Nothing here knows the models."""

from osvi_django.client.api import OSVIClient
from osvi_django.client.connections import NetworkRefused

__all__ = ["NetworkRefused", "OSVIClient"]
