"""The WSGI application. Importing this opens nothing: `gunicorn.conf.py` says when to open."""

from dfs.app import create_app

app = create_app()
