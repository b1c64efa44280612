"""Metrics of a node. Set up by the application and the workers; other layers use hooks."""
