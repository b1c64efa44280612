"""dfs: a distributed file store that acknowledges a write only when it is on disk."""

__version__ = "0.1.0"
