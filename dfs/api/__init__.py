"""HTTP: parse a request, call one method of a service, answer. Only here and in `app.py`: Flask."""
