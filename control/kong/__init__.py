"""Taking over what a Kong has: its entities, credentials and tokens, in one transaction."""
