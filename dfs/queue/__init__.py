"""Background jobs: a hint that there is work. What is owed stands in the index, never only here."""
