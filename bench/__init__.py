"""The benchmark: what dfs does on this machine, against what the machine itself can do.

    python -m bench [--quick] [--only CELL]

Every figure stands beside a reference measured in the same run, alternating in rounds: an empty
Flask route on the same Gunicorn, plain appends with a sync, nginx. `docs/benchmarks.md` says what
was measured and how.
"""
