"""The benchmark: what dfs does on this machine, against what the machine itself can do.

    python -m bench [benchmarks | scaling | soak] [--quick] [--only CELL]

Every figure stands beside a reference measured in the same run, alternating in rounds: empty
applications on the same Gunicorn, plain appends with a sync, SHA-256, threads that store files,
nginx. Each page, such as `docs/benchmarks.md`, says what was measured and how.
"""
