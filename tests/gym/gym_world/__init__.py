"""A stranger's package: a small gym adopts LUMOS with three SELECTs and one recipe function."""
