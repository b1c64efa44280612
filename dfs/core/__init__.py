"""What every layer shares and what imports no layer: configuration, errors, model, logging."""
