"""The ledger, in a file or in PostgreSQL; the entries of the cache; and files that an operator names.

ledger_file    calls, holds and cooldowns, by verbs; rows that must not be lost
location       where the ledger lies
connection     one interface to both databases
opening        the ledger on its way to a connection
postgres       the same in PostgreSQL: connections, tables, news of changed keys
rows           rows of the ledger's tables
holds          what a hold is charged to, and how it was decided
asks           what the event loop asks of the writer's thread, and the answers
turn           one transaction: what the queue has, then what was asked
counters       limits and budgets: holds are decided and settled
tallies        counters in memory
open_holds     holds in memory and in the file
sums           what the rows say was spent
filters        which calls a budget covers
verify         differences between counters and rows
spill          files for rows that the queue has no room for
rounds         leases, dead processes, spilled rows
cache_file     entries of the cache, by verbs; entries that may be lost
writer         the thread that writes to either file, with a policy for each
sqlite         connections to SQLite, and the write-ahead log
errors         the errors of both databases as texts
schema         the ledger's tables in SQLAlchemy Core, in types that PostgreSQL has too
new_file       the statements of a new ledger file, made from the schema
migrations     Alembic's steps from each released version of the ledger's file to the next
columns        what rows are grouped by and summed to in roll-ups
rollups        sums by quarter of an hour and by day, which outlive the rows
running        coarser sums of closed days, made of roll-ups
pieces         which of these make the buckets of a report
retention      the thread that rolls up rows and deletes old ones
buckets        hours and days of a time zone
queries        the operator's sums, in SQLAlchemy Core
grouped        how they are summed, from running sums, roll-ups and rows
collected      the results of several queries as one
listed         calls and refusals one by one, in SQLAlchemy Core
files          files whose paths an operator names

The modules schema, queries, grouped, listed and those in migrations import SQLAlchemy or Alembic, 37 MB and 0.3 s. The
gateway imports none of them before the first report: a migration runs in a child process. Only
postgres imports psycopg.
"""
