"""The OpenAPI description of this API, for hosts that use drf-spectacular.

It is made from the declarations that the views use: serializers, models, and the classes and
statuses of errors. Only ``inspector`` and ``hooks`` need drf-spectacular.
"""
