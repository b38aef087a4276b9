"""Kong's Admin API: generic machinery, and one module an entity."""
