"""The background process of a node: runs jobs from the queue and starts the periodic ones."""

import dfs.queue  # noqa: F401 # before anything imports redis
