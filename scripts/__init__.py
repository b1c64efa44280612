"""What an operator or developer runs by hand. `python -m scripts.<name>` from the root."""
