"""Alembic migrations; inside the package, so that an installed Narthex finds them."""
