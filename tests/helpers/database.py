"""Interfere with database queries: raise, skip them, or act after them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from django.db import OperationalError, connection
from django.db.backends.signals import connection_created


@contextmanager
def raise_on_queries(is_refused, error):
    """Raise the error instead of the queries of this thread for which ``is_refused`` is true."""

    def answer(execute, sql, params, many, context):
        if is_refused(sql, params or ()):
            raise error
        return execute(sql, params, many, context)

    with connection.execute_wrapper(answer):
        yield


@contextmanager
def call_after_queries(is_meant, do):
    """Call a function after each query of this thread for which ``is_meant`` is true."""

    def answer(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if is_meant(sql, params or ()):
            do()
        return result

    with connection.execute_wrapper(answer):
        yield


@contextmanager
def skip_queries(is_meant):
    """Skip queries of this thread, as MariaDB's INSERT IGNORE sometimes does nothing."""

    def answer(execute, sql, params, many, context):
        return None if is_meant(sql, params or ()) else execute(sql, params, many, context)

    with connection.execute_wrapper(answer):
        yield


@contextmanager
def wrap_queries_in_threads(thread_name, wrapper):
    """Execute all queries on new connections of threads of this name through this wrapper."""
    wrapped = []

    def wrap(connection, **_named):
        if threading.current_thread().name == thread_name:
            connection.execute_wrappers.append(wrapper)
            wrapped.append(connection)

    connection_created.connect(wrap)
    try:
        yield
    finally:
        connection_created.disconnect(wrap)
        for each in wrapped:  # a thread that goes on connects again with the same wrappers
            each.execute_wrappers.remove(wrapper)


@contextmanager
def database_unavailable_in_threads(thread_name):
    """Refuse all queries on new connections of threads of this name; yield the refused queries."""
    refused = []

    def fail(execute, sql, params, many, context):
        refused.append(sql)
        raise OperationalError("a secret")

    with wrap_queries_in_threads(thread_name, fail):
        yield refused


def cut_connection():
    """Let the server, which SQLite does not have, end this thread's connection."""
    query = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}
    with connection.cursor() as cursor:
        cursor.execute(query[connection.vendor])
        victim = cursor.fetchone()[0]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_terminate, victim).result()


def _terminate(victim):
    command = {"postgresql": "SELECT pg_terminate_backend(%s)", "mysql": "KILL %s"}
    try:
        with connection.cursor() as cursor:
            cursor.execute(command[connection.vendor], [victim])
    finally:
        connection.close()
