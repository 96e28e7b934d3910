"""Indexes of the words of summaries and notes, for databases that have such indexes.

Their expressions are those of ``services/search/words.py``, character for character. A tsvector
holds 1 MB at most, and a text that cannot be indexed could not be stored, hence the ``left()``.
"""

from django.db import migrations

_PUNCTUATION = "!\"#$%&''()*+,-./:;<=>?@[\\]^_`{|}~"
_SPACES = " " * 32


def _words(column):
    return f"to_tsvector('simple', translate(left({column}, 100000), '{_PUNCTUATION}', '{_SPACES}'))"


# A search reads the pending list from its beginning to its end.
_OPTIONS = "WITH (gin_pending_list_limit = 256)"
_ADD = {
    "postgresql": (
        "CREATE INDEX osvi_summary_words ON osvi_django_sessionsummary"
        f" USING gin ({_words('text')}) {_OPTIONS} WHERE NOT (text = '')",
        "CREATE INDEX osvi_attempt_words ON osvi_django_closeattempt"
        f" USING gin ({_words('note')}) {_OPTIONS} WHERE NOT (note = '')",
    ),
    "mysql": (
        "ALTER TABLE osvi_django_sessionsummary ADD FULLTEXT INDEX osvi_summary_words (text)",
        "ALTER TABLE osvi_django_closeattempt ADD FULLTEXT INDEX osvi_attempt_words (note)",
    ),
}
_REMOVE = {
    "postgresql": ("DROP INDEX osvi_summary_words", "DROP INDEX osvi_attempt_words"),
    "mysql": (
        "ALTER TABLE osvi_django_sessionsummary DROP INDEX osvi_summary_words",
        "ALTER TABLE osvi_django_closeattempt DROP INDEX osvi_attempt_words",
    ),
}


def add_indexes(apps, schema_editor):
    for statement in _ADD.get(schema_editor.connection.vendor, ()):
        schema_editor.execute(statement, params=None)


def remove_indexes(apps, schema_editor):
    for statement in _REMOVE.get(schema_editor.connection.vendor, ()):
        schema_editor.execute(statement, params=None)


class Migration(migrations.Migration):
    dependencies = [("osvi_django", "0001_initial")]
    # MariaDB changes no tables inside a transaction, and PostgreSQL runs all of it in one anyway.
    operations = [migrations.RunPython(add_indexes, remove_indexes, atomic=False)]
