"""The background process of a node: runs jobs from the queue and starts the periodic ones."""
