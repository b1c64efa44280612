"""The index: where each file and blob is. It holds nothing the log does not, and can be rebuilt.

`models` is the schema, `migrations` how a database gets there, `session` opens and closes,
`transaction` is the only writer (`debts` is its part for what stores owe, `usage` for how much is
used), `repository` reads. `statements` and `rows` are the SQL and the row layouts that both use;
`faults` turns what a database driver raises into dfs errors, `drivers` loads them.
"""

import dfs.db.drivers  # noqa: F401 # before anything here imports peewee
