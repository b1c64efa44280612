"""Tries the image of docker-compose.yml without a container engine; see `__main__`."""
