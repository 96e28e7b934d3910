"""``manage.py osvi_export_customer [--customer ID]``: print what is stored of a customer."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.utils.translation import gettext as _

from osvi_django.database import OSVIJSONEncoder
from osvi_django.exceptions import OSVIError
from osvi_django.management.customer import OPTIONS, add_customer, customer_of
from osvi_django.management.options import problem_of
from osvi_django.management.output import OSVICommand
from osvi_django.services.privacy.exporting import export_customer


class Command(OSVICommand):
    """Print everything that is stored of one customer as JSON."""

    is_output_required = True
    help = _(
        "Print what this site stores of a customer, as JSON. Without --customer, the id is read "
        "from standard input."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        add_customer(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the export."""
        try:
            found = export_customer(customer_of(options), account=options["account"], via="command")
        except OSVIError as error:
            raise CommandError(problem_of(error, OPTIONS)) from None
        # In JSON no character controls a terminal.
        self.stdout.write(json.dumps(found, cls=OSVIJSONEncoder, indent=2))
