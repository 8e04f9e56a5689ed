"""The errors of psycopg and libpq in our own words: theirs may have addresses, users and values."""

from __future__ import annotations

import psycopg
from psycopg import errors

from ..errors import PostgresError

PASSING = (
    errors.AdminShutdown,
    errors.CannotConnectNow,
    errors.ConnectionTimeout,
    errors.CrashShutdown,
    errors.DeadlockDetected,
    errors.DiskFull,
    errors.IdleInTransactionSessionTimeout,
    errors.LockNotAvailable,
    errors.OutOfMemory,
    errors.QueryCanceled,
    errors.TooManyConnections,
)
REFUSED = "the server refuses the user or the password; set the right ones in the URL, percent-encoded"
UNKNOWN_HOST = "its host name is not known; set the right one in the URL"
UNKNOWN_OPTION = "the URL has an option, or a value of one, that libpq does not know"
POOLED = "PgBouncer seems to be in between, in its transaction mode; set storage.pgbouncer: true"
# In the server's words, or the library's: they may have addresses, users and values.
WORDS: tuple[tuple[type[Exception], str], ...] = (
    (errors.InvalidPassword, REFUSED),
    (errors.InvalidAuthorizationSpecification, "the server refuses the user; name another in the URL"),
    (errors.InvalidCatalogName, "the server has no such database; create it, or name another in the URL"),
    (errors.TooManyConnections, "the server has no connection left (max_connections)"),
    (errors.CannotConnectNow, "the server is starting or stopping"),
    (errors.AdminShutdown, "the server is stopping"),
    (errors.CrashShutdown, "the server is stopping"),
    (errors.DiskFull, "the server's disk is full"),
    (errors.ReadOnlySqlTransaction, "it is read-only, as a standby is; name the primary server in the URL"),
    (errors.InsufficientPrivilege, "permission denied; its user must own the tables, and the schema if there are none"),
    (errors.InvalidSqlStatementName, POOLED),
    (errors.DuplicatePreparedStatement, POOLED),
    (errors.LockNotAvailable, "others have locked it"),
    (errors.QueryCanceled, "it is too slow"),
    (errors.ConnectionTimeout, "the server does not answer"),
)
LIBRARY_WORDS = (  # libpq has no codes for failed connections
    ("password authentication failed", REFUSED, False),
    ("no password supplied", "the server asks for a password, and the URL has none", False),
    ("does not exist", "the server has no such user or database; create it, or name another in the URL", False),
    ("no pg_hba.conf entry", "the server refuses this machine or user; allow them in its pg_hba.conf", False),
    ("could not translate host name", UNKNOWN_HOST, False),
    ("failed to resolve host", UNKNOWN_HOST, False),
    ("server does not support SSL", "the server offers no TLS, which sslmode of the URL demands", False),
    ("certificate verify failed", "the server's certificate is not trusted; name its authority by sslrootcert", False),
    ("received invalid response", "what answers there is no PostgreSQL; set the right host and port in the URL", False),
    ("invalid ", UNKNOWN_OPTION, False),
    ("too many connections", "the server has no connection left (for this database or user)", True),
    ("too many clients", "the server has no connection left (max_connections)", True),
    ("remaining connection slots", "the server has no connection left (max_connections)", True),
    ("starting up", "the server is starting", True),
    ("shutting down", "the server is stopping", True),
    ("Connection refused", "the server cannot be reached: connection refused", True),
    ("No such file or directory", "the server cannot be reached: there is no such socket", True),
    ("timeout expired", "the server does not answer", True),
    ("closed the connection unexpectedly", "the server has closed the connection", True),
)


def failure(error: psycopg.Error, *, unknown: bool = False, connecting: bool = False) -> PostgresError:
    """The error in our own words. ``unknown``: the transaction may have been committed if the connection is lost.
    ``connecting``: there is no connection yet."""
    if isinstance(error, psycopg.ProgrammingError) and connecting:
        return PostgresError(UNKNOWN_OPTION)
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError | psycopg.ProgrammingError):
        code = error.sqlstate or type(error).__name__
        words = next((words for kind, words in WORDS if isinstance(error, kind)), None)
        return PostgresError(words or f"it cannot be used ({code})", of_row=words is None)
    passing = isinstance(error, PASSING) or error.sqlstate is None
    unknown = unknown and (error.sqlstate is None or isinstance(error, errors.AdminShutdown | errors.CrashShutdown))
    for kind, words in WORDS:
        if isinstance(error, kind):
            return PostgresError(words, passing=passing, unknown=unknown)
    if error.sqlstate is None:
        text = str(error)
        for part, words, gone in LIBRARY_WORDS:
            if part in text:
                return PostgresError(words, passing=gone, unknown=unknown)
        if type(error).__name__ == "_WaitTimeout":
            return PostgresError("the server does not answer", passing=True, unknown=unknown)
        return PostgresError("the connection to the server is lost", passing=True, unknown=unknown)
    return PostgresError(f"it cannot be used ({error.sqlstate})", passing=passing, unknown=unknown)
