"""Gunicorn's settings for the empty application: dfs's own, without its hooks."""

from __future__ import annotations

import runpy
from pathlib import Path

_settings = runpy.run_path(str(Path(__file__).parents[1] / "gunicorn.conf.py"))
globals().update(
    {name: value for name, value in _settings.items() if isinstance(value, bool | int | str)}
)
