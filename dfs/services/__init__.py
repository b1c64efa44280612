"""The use cases of dfs: what a request, a job or a script asks for."""
