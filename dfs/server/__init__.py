"""Serving HTTP to anyone: Gunicorn's threads, kept from clients that take their time."""
