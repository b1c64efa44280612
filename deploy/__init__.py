"""How a node is deployed: docs/deploy.md. What is Python here only checks the rest."""
