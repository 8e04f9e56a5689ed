"""Alembic's side of a migration. The connection and its transaction are those of __main__."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
